# SPDX-License-Identifier: Apache-2.0
"""Cython's view of vector.hpp: the number types that kernels take."""
from libc.stdint cimport int64_t

cdef extern from "vector.hpp" namespace "mlayers" nogil:
    ctypedef struct float16:
        pass
    ctypedef struct bfloat16:
        pass

    void convert[From, To](const From* source, To* to, int64_t n) noexcept
    void stream(void* to, const void* source, int64_t bytes) noexcept
    void stream_done() noexcept

ctypedef fused number:
    float
    double
    float16
    bfloat16
