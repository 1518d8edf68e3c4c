# SPDX-License-Identifier: Apache-2.0
"""Cython's view of call.h, cimported by every kernel."""
from libc.stdint cimport int32_t, int64_t

cdef extern from "call.h" nogil:
    const bint HAS_OPENMP "MLAYERS_HAS_OPENMP"
    const int FLOAT32 "MLAYERS_FLOAT32"
    const int FLOAT64 "MLAYERS_FLOAT64"
    const int MAX_ARRAYS "MLAYERS_MAX_ARRAYS"

    ctypedef struct Array "mlayers_array":
        void* data
        int64_t rank
        const int64_t* shape
        int64_t size

    ctypedef struct Call "mlayers_call":
        int32_t dtype
        int32_t threads
        Array* inputs
        Array* outputs
        const int64_t* ints
        int64_t n_ints
        const double* floats
        int64_t n_floats

    ctypedef void (*Kernel "mlayers_kernel")(const Call*) noexcept nogil

    int max_threads "mlayers_max_threads"() noexcept
    int threads_for "mlayers_threads_for"(const Call* call, int64_t work) noexcept
