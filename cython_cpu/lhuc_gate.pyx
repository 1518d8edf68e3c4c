# SPDX-License-Identifier: Apache-2.0
# distutils: language = c++
"""The LHUC gate on the CPU: out = hidden * 2 * sigmoid(logits), element by element, one pass.

The loops are in lhuc_gate.hpp.
"""
from call cimport Body, Call, exported, for_rows, returns_like, same_shape, takes

cdef extern from "lhuc_gate.hpp" namespace "mlayers" nogil:
    const Body* GATE_ROWS  # by dtype
    const Body* GATE_GRAD_ROWS

cdef enum:
    EXP = 16  # an exponential costs about as much as so many multiply-adds


cdef bint lhuc_gate_shapes(Call* call) noexcept nogil:
    if not takes(call, 2, 0, 0):
        return False
    returns_like(call, 0)
    return same_shape(&call.inputs[0], &call.inputs[1])


cdef bint lhuc_gate_grad_shapes(Call* call) noexcept nogil:
    if not takes(call, 3, 0, 0):
        return False
    returns_like(call, 1)
    returns_like(call, 2)
    return (
        same_shape(&call.inputs[0], &call.inputs[1])
        and same_shape(&call.inputs[1], &call.inputs[2])
    )


cdef void lhuc_gate(const Call* call) noexcept nogil:
    for_rows(call, call.inputs[0].size, EXP * call.inputs[0].size, GATE_ROWS[call.dtype])


cdef void lhuc_gate_grad(const Call* call) noexcept nogil:
    for_rows(
        call, call.inputs[0].size, EXP * call.inputs[0].size, GATE_GRAD_ROWS[call.dtype])


KERNELS = {
    "lhuc_gate": exported(lhuc_gate, lhuc_gate_shapes),
    "lhuc_gate_grad": exported(lhuc_gate_grad, lhuc_gate_grad_shapes),
}
