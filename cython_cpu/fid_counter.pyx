# SPDX-License-Identifier: Apache-2.0
"""The saturating counter on the CPU: out = min(counter + step, threshold), element by element.

Its gradient is a rule, not a derivative: -step below the threshold, else 0; why is told in
mlayers/ops/fid_counter.py.
"""
from call cimport FLOAT32, Call, exported, for_rows, returns_like, takes
from cython cimport floating
from libc.stdint cimport int64_t


cdef void forward(const Call* call, int64_t first, int64_t last, floating* out) noexcept nogil:
    cdef const floating* counter = <const floating*> call.inputs[0].data
    cdef floating threshold = <floating> call.floats[0], step = <floating> call.floats[1]
    cdef floating value
    cdef int64_t i
    for i in range(first, last):
        value = counter[i] + step
        # Written so that a NaN counter stays NaN.
        out[i] = threshold if value > threshold else value


cdef void backward(
    const Call* call, int64_t first, int64_t last, floating* counter_grad,
) noexcept nogil:
    cdef const floating* counter = <const floating*> call.inputs[0].data
    cdef floating threshold = <floating> call.floats[0], step = <floating> call.floats[1]
    cdef int64_t i
    for i in range(first, last):
        counter_grad[i] = -step if counter[i] < threshold else 0


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
