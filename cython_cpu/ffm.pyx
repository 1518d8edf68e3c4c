# SPDX-License-Identifier: Apache-2.0
"""FFM on the CPU: out[b,l,r,d] = left[b,l,d] * right[b,r,d], or its sum over d (dot).

b batch, l left field, r right field, d dimension. Batch rows are independent: each thread takes
whole rows, so results do not depend on the thread count.
"""
from call cimport FLOAT32, Call, threads_for
from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating
from cython.parallel cimport prange
from libc.stdint cimport int64_t

cdef enum IntType:  # the order in which mlayers/ops/ffm.py declares the choices
    MULTIPLY = 0
    DOT = 1


cdef inline void multiply_row(
    const floating* left_ld, const floating* right_rd, floating* out_lrd,
    int64_t L, int64_t R, int64_t D,
) noexcept nogil:
    cdef int64_t l, r, d
    for l in range(L):
        for r in range(R):
            for d in range(D):
                out_lrd[(l * R + r) * D + d] = left_ld[l * D + d] * right_rd[r * D + d]


cdef inline void dot_row(
    const floating* left_ld, const floating* right_rd, floating* out_lr,
    int64_t L, int64_t R, int64_t D,
) noexcept nogil:
    cdef int64_t l, r, d
    cdef floating total
    for l in range(L):
        for r in range(R):
            total = 0
            for d in range(D):
                total += left_ld[l * D + d] * right_rd[r * D + d]
            out_lr[l * R + r] = total


cdef inline void multiply_grad_row(
    const floating* grad_lrd, const floating* left_ld, const floating* right_rd,
    floating* left_grad_ld, floating* right_grad_rd, int64_t L, int64_t R, int64_t D,
) noexcept nogil:
    # One pass over the upstream gradient, by far the largest array, makes both results.
    cdef int64_t l, r, d
    cdef floating g
    for d in range(L * D):
        left_grad_ld[d] = 0
    for d in range(R * D):
        right_grad_rd[d] = 0
    for l in range(L):
        for r in range(R):
            for d in range(D):
                g = grad_lrd[(l * R + r) * D + d]
                left_grad_ld[l * D + d] += g * right_rd[r * D + d]
                right_grad_rd[r * D + d] += g * left_ld[l * D + d]


cdef inline void dot_grad_row(
    const floating* grad_lr, const floating* left_ld, const floating* right_rd,
    floating* left_grad_ld, floating* right_grad_rd, int64_t L, int64_t R, int64_t D,
) noexcept nogil:
    cdef int64_t l, r, d
    cdef floating g
    for d in range(L * D):
        left_grad_ld[d] = 0
    for d in range(R * D):
        right_grad_rd[d] = 0
    for l in range(L):
        for r in range(R):
            g = grad_lr[l * R + r]
            for d in range(D):
                left_grad_ld[l * D + d] += g * right_rd[r * D + d]
                right_grad_rd[r * D + d] += g * left_ld[l * D + d]


cdef void forward(const Call* call, floating* out) noexcept nogil:
    cdef const floating* left = <const floating*> call.inputs[0].data
    cdef const floating* right = <const floating*> call.inputs[1].data
    cdef int64_t D = call.ints[0], mode = call.ints[1]
    cdef int64_t B = call.inputs[0].shape[0]
    cdef int64_t L = call.inputs[0].shape[1] // D, R = call.inputs[1].shape[1] // D
    cdef int64_t b
    for b in prange(B, schedule="static", num_threads=threads_for(call, B * L * R * D)):
        if mode == MULTIPLY:
            multiply_row(left + b * L * D, right + b * R * D, out + b * L * R * D, L, R, D)
        else:
            dot_row(left + b * L * D, right + b * R * D, out + b * L * R, L, R, D)


cdef void backward(const Call* call, floating* left_grad) noexcept nogil:
    cdef const floating* grad = <const floating*> call.inputs[0].data
    cdef const floating* left = <const floating*> call.inputs[1].data
    cdef const floating* right = <const floating*> call.inputs[2].data
    cdef floating* right_grad = <floating*> call.outputs[1].data
    cdef int64_t D = call.ints[0], mode = call.ints[1]
    cdef int64_t B = call.inputs[1].shape[0]
    cdef int64_t L = call.inputs[1].shape[1] // D, R = call.inputs[2].shape[1] // D
    cdef int64_t b
    for b in prange(B, schedule="static", num_threads=threads_for(call, 2 * B * L * R * D)):
        if mode == MULTIPLY:
            multiply_grad_row(
                grad + b * L * R * D, left + b * L * D, right + b * R * D,
                left_grad + b * L * D, right_grad + b * R * D, L, R, D)
        else:
            dot_grad_row(
                grad + b * L * R, left + b * L * D, right + b * R * D,
                left_grad + b * L * D, right_grad + b * R * D, L, R, D)


cdef void ffm(const Call* call) noexcept nogil:
    if call.dtype == FLOAT32:
        forward(call, <float*> call.outputs[0].data)
    else:
        forward(call, <double*> call.outputs[0].data)


cdef void ffm_grad(const Call* call) noexcept nogil:
    if call.dtype == FLOAT32:
        backward(call, <float*> call.outputs[0].data)
    else:
        backward(call, <double*> call.outputs[0].data)


KERNELS = {
    "ffm": PyCapsule_New(<void*> ffm, b"mlayers_kernel", NULL),
    "ffm_grad": PyCapsule_New(<void*> ffm_grad, b"mlayers_kernel", NULL),
}
