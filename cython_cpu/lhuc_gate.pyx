# SPDX-License-Identifier: Apache-2.0
"""The LHUC gate on the CPU: out = hidden * 2 * sigmoid(logits), element by element, one pass."""
from call cimport FLOAT32, Call, exported, for_rows, returns_like, same_shape, takes
from cython cimport floating
from libc.math cimport exp, expf
from libc.stdint cimport int64_t


cdef enum:
    EXP = 16  # an exponential costs about as much as so many multiply-adds


cdef inline floating sigmoid(floating x) noexcept nogil:
    # exp(-x) overflows to inf for very negative x, and 1 / inf is the 0 that is wanted.
    if floating is float:
        return 1 / (1 + expf(-x))
    else:
        return 1 / (1 + exp(-x))


cdef void forward(const Call* call, int64_t first, int64_t last, floating* out) noexcept nogil:
    cdef const floating* hidden = <const floating*> call.inputs[0].data
    cdef const floating* logits = <const floating*> call.inputs[1].data
    cdef int64_t i
    for i in range(first, last):
        out[i] = 2 * hidden[i] * sigmoid(logits[i])


cdef void backward(
    const Call* call, int64_t first, int64_t last, floating* hidden_grad,
) noexcept nogil:
    cdef const floating* grad = <const floating*> call.inputs[0].data
    cdef const floating* hidden = <const floating*> call.inputs[1].data
    cdef const floating* logits = <const floating*> call.inputs[2].data
    cdef floating* logits_grad = <floating*> call.outputs[1].data
    cdef floating gate, gated
    cdef int64_t i
    for i in range(first, last):
        gate = sigmoid(logits[i])
        gated = 2 * grad[i] * gate
        hidden_grad[i] = gated
        logits_grad[i] = gated * hidden[i] * (1 - gate)


cdef void forward_rows(const Call* call, int64_t first, int64_t last) noexcept nogil:
    if call.dtype == FLOAT32:
        forward(call, first, last, <float*> call.outputs[0].data)
    else:
        forward(call, first, last, <double*> call.outputs[0].data)


cdef void backward_rows(const Call* call, int64_t first, int64_t last) noexcept nogil:
    if call.dtype == FLOAT32:
        backward(call, first, last, <float*> call.outputs[0].data)
    else:
        backward(call, first, last, <double*> call.outputs[0].data)


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
    for_rows(call, call.inputs[0].size, EXP * call.inputs[0].size, forward_rows)


cdef void lhuc_gate_grad(const Call* call) noexcept nogil:
    for_rows(call, call.inputs[0].size, EXP * call.inputs[0].size, backward_rows)


KERNELS = {
    "lhuc_gate": exported(lhuc_gate, lhuc_gate_shapes),
    "lhuc_gate_grad": exported(lhuc_gate_grad, lhuc_gate_grad_shapes),
}
