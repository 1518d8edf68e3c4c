# SPDX-License-Identifier: Apache-2.0
# distutils: language = c++
"""What the machine's memory can do on the kernels' own threads: fill, copy, read; for the bench.

One kernel, `bandwidth`, whose integer says which; input and output are float32 arrays of one shape.
"""
from call cimport Call, exported, for_rows, returns_like, takes
from libc.stdint cimport int64_t

cdef extern from "bandwidth.hpp" namespace "mlayers" nogil:
    void fill_memory(float* to, int64_t n) noexcept
    void fill_past_caches(float* to, int64_t n) noexcept
    void copy_memory(const float* source, float* to, int64_t n) noexcept
    float read_memory(const float* source, int64_t n) noexcept

cdef enum Mode:
    FILL = 0
    FILL_PAST_CACHES = 1
    COPY = 2
    READ = 3


cdef void bandwidth_rows(const Call* call, int64_t first, int64_t last) noexcept nogil:
    cdef const float* x = <const float*> call.inputs[0].data + first
    cdef float* out = <float*> call.outputs[0].data + first
    if call.ints[0] == FILL:
        fill_memory(out, last - first)
    elif call.ints[0] == FILL_PAST_CACHES:
        fill_past_caches(out, last - first)
    elif call.ints[0] == COPY:
        copy_memory(x, out, last - first)
    else:
        out[0] = read_memory(x, last - first)


cdef void bandwidth(const Call* call) noexcept nogil:
    for_rows(call, call.inputs[0].size, call.inputs[0].size, bandwidth_rows)


cdef bint shapes(Call* call) noexcept nogil:
    if not takes(call, 1, 1, 0):
        return False
    returns_like(call, 0)
    return True


KERNELS = {"bandwidth": exported(bandwidth, shapes)}
