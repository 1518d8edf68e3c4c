# SPDX-License-Identifier: Apache-2.0
# distutils: language = c++
"""The LHUC gate on the CPU: out = hidden * 2 * sigmoid(logits), element by element, one pass.

The loops are in lhuc_gate.hpp.
"""
from call cimport (
    BFLOAT16, FLOAT16, FLOAT32, Call, exported, for_rows, returns_like, same_shape, takes,
)
from libc.stdint cimport int64_t
from vector cimport bfloat16, float16, number

cdef extern from "lhuc_gate.hpp" namespace "mlayers" nogil:
    void gate[T](
        const T* hidden, const T* logits, T* out, int64_t first, int64_t last) noexcept
    void gate_grad[T](
        const T* grad, const T* hidden, const T* logits, T* hidden_grad, T* logits_grad,
        int64_t first, int64_t last) noexcept

cdef enum:
    EXP = 16  # an exponential costs about as much as so many multiply-adds


cdef void forward(const Call* call, int64_t first, int64_t last, number* out) noexcept nogil:
    gate(
        <const number*> call.inputs[0].data, <const number*> call.inputs[1].data, out, first, last)


cdef void backward(
    const Call* call, int64_t first, int64_t last, number* hidden_grad,
) noexcept nogil:
    gate_grad(
        <const number*> call.inputs[0].data, <const number*> call.inputs[1].data,
        <const number*> call.inputs[2].data, hidden_grad, <number*> call.outputs[1].data,
        first, last)


cdef void forward_rows(const Call* call, int64_t first, int64_t last) noexcept nogil:
    cdef void* out = call.outputs[0].data
    if call.dtype == FLOAT32:
        forward(call, first, last, <float*> out)
    elif call.dtype == FLOAT16:
        forward(call, first, last, <float16*> out)
    elif call.dtype == BFLOAT16:
        forward(call, first, last, <bfloat16*> out)
    else:
        forward(call, first, last, <double*> out)


cdef void backward_rows(const Call* call, int64_t first, int64_t last) noexcept nogil:
    cdef void* grad = call.outputs[0].data
    if call.dtype == FLOAT32:
        backward(call, first, last, <float*> grad)
    elif call.dtype == FLOAT16:
        backward(call, first, last, <float16*> grad)
    elif call.dtype == BFLOAT16:
        backward(call, first, last, <bfloat16*> grad)
    else:
        backward(call, first, last, <double*> grad)


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
