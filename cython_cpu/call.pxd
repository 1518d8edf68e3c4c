# SPDX-License-Identifier: Apache-2.0
"""Cython's view of call.h, cimported by every kernel."""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int32_t, int64_t

cdef extern from "call.h" nogil:
    const int FLOAT32 "MLAYERS_FLOAT32"
    const int FLOAT64 "MLAYERS_FLOAT64"
    const int FLOAT16 "MLAYERS_FLOAT16"
    const int BFLOAT16 "MLAYERS_BFLOAT16"
    const int MAX_ARRAYS "MLAYERS_MAX_ARRAYS"

    ctypedef struct Array "mlayers_array":
        void* data
        int64_t rank
        const int64_t* shape
        int64_t size

    ctypedef struct Call "mlayers_call"
    ctypedef void (*Body "mlayers_body")(const Call*, int64_t, int64_t) noexcept nogil

    ctypedef void (*Parallel "mlayers_parallel")(const Call*, int64_t, Body) noexcept nogil

    ctypedef struct Call "mlayers_call":
        int32_t dtype
        int32_t n_inputs
        int32_t n_outputs
        int32_t threads
        int32_t streams
        Array* inputs
        Array* outputs
        const int64_t* ints
        int64_t n_ints
        const double* floats
        int64_t n_floats
        Parallel parallel

    ctypedef void (*Kernel "mlayers_kernel")(const Call*) noexcept nogil
    ctypedef bint (*Shapes "mlayers_shapes")(Call*) noexcept nogil

    ctypedef struct Op "mlayers_op":
        const char* name
        Kernel kernel
        Shapes shapes

    ctypedef struct Runtime "mlayers_runtime":
        const Op* (*find)(const char*, size_t) noexcept nogil
        void (*run)(const Op*, Call*) noexcept nogil
        void (*run_on)(const Op*, Call*, Parallel, int32_t) noexcept nogil
        void (*explain)(const Op*, const Call*, char*, size_t) noexcept nogil

    # for kernels
    void for_rows "mlayers_for"(const Call*, int64_t n, int64_t work, Body) noexcept

    # for shapes functions
    bint takes "mlayers_takes"(const Call*, int32_t inputs, int64_t ints, int64_t floats) noexcept
    bint is_matrix "mlayers_is_matrix"(const Array*) noexcept
    bint same_shape "mlayers_same_shape"(const Array*, const Array*) noexcept
    bint has_shape "mlayers_has_shape"(const Array*, int64_t rows, int64_t columns) noexcept
    void returns "mlayers_returns"(Call*, int64_t rows, int64_t columns) noexcept
    void returns_like "mlayers_returns_like"(Call*, int32_t input) noexcept


cdef inline tuple exported(Kernel kernel, Shapes shapes):
    """An op's two functions as Python can carry them, for a module's KERNELS."""
    return (
        PyCapsule_New(<void*> kernel, b"mlayers_kernel", NULL),
        PyCapsule_New(<void*> shapes, b"mlayers_shapes", NULL),
    )
