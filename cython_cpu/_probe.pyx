# SPDX-License-Identifier: Apache-2.0
# distutils: language = c++
"""out = scale * x, the kernel that a bridge must compute right before it is trusted with an op."""
from call cimport (
    BFLOAT16, FLOAT16, FLOAT32, Call, exported, for_rows, returns_like, takes,
)
from libc.stdint cimport int64_t
from vector cimport bfloat16, convert, float16, number


cdef void scale(const Call* call, int64_t first, int64_t last, number* out) noexcept nogil:
    cdef const number* x = <const number*> call.inputs[0].data
    cdef double scaled
    cdef int64_t i
    for i in range(first, last):
        convert(x + i, &scaled, 1)
        scaled *= call.ints[0]
        convert(&scaled, out + i, 1)


cdef void scale_rows(const Call* call, int64_t first, int64_t last) noexcept nogil:
    cdef void* out = call.outputs[0].data
    if call.dtype == FLOAT32:
        scale(call, first, last, <float*> out)
    elif call.dtype == FLOAT16:
        scale(call, first, last, <float16*> out)
    elif call.dtype == BFLOAT16:
        scale(call, first, last, <bfloat16*> out)
    else:
        scale(call, first, last, <double*> out)


cdef void probe(const Call* call) noexcept nogil:
    for_rows(call, call.inputs[0].size, call.inputs[0].size, scale_rows)


cdef bint shapes(Call* call) noexcept nogil:
    if not takes(call, 1, 1, 0):
        return False
    returns_like(call, 0)
    return True


PROBE = exported(probe, shapes)
