# SPDX-License-Identifier: Apache-2.0
# distutils: language = c++
"""The saturating counter on the CPU: out = min(counter + step, threshold), element by element.

Its gradient is a rule, not a derivative: -step below the threshold, else 0; why is told in
mlayers/ops/fid_counter.py. The loops are in fid_counter.hpp.
"""
from call cimport BFLOAT16, FLOAT16, FLOAT32, Call, exported, for_rows, returns_like, takes
from libc.stdint cimport int64_t
from vector cimport bfloat16, float16, number

cdef extern from "fid_counter.hpp" namespace "mlayers" nogil:
    void count[T](
        const T* counter, T* out, double threshold, double step, int64_t first, int64_t last,
    ) noexcept
    void count_grad[T](
        const T* counter, T* counter_grad, double threshold, double step, int64_t first,
        int64_t last) noexcept


cdef void forward(const Call* call, int64_t first, int64_t last, number* out) noexcept nogil:
    count(
        <const number*> call.inputs[0].data, out, call.floats[0], call.floats[1], first, last)


cdef void backward(
    const Call* call, int64_t first, int64_t last, number* counter_grad,
) noexcept nogil:
    count_grad(
        <const number*> call.inputs[0].data, counter_grad, call.floats[0], call.floats[1],
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


cdef bint shapes(Call* call) noexcept nogil:
    if not takes(call, 1, 0, 2):
        return False
    returns_like(call, 0)
    return True


cdef void fid_counter(const Call* call) noexcept nogil:
    for_rows(call, call.inputs[0].size, call.inputs[0].size, forward_rows)


cdef void fid_counter_grad(const Call* call) noexcept nogil:
    for_rows(call, call.inputs[0].size, call.inputs[0].size, backward_rows)


KERNELS = {
    "fid_counter": exported(fid_counter, shapes),
    "fid_counter_grad": exported(fid_counter_grad, shapes),
}
