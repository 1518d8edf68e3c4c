# SPDX-License-Identifier: Apache-2.0
"""FFM on the CPU: out[b,l,r,d] = left[b,l,d] * right[b,r,d], or its sum over d (dot).

b batch, l left field, r right field, d dimension. A row is a batch row and is computed by one
thread, so results do not depend on the thread count.
"""
from call cimport (
    FLOAT32, Array, Call, exported, for_rows, has_shape, is_matrix, returns, returns_like, takes,
)
from cython cimport floating
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


cdef void forward(const Call* call, int64_t first, int64_t last, floating* out) noexcept nogil:
    cdef const floating* left = <const floating*> call.inputs[0].data
    cdef const floating* right = <const floating*> call.inputs[1].data
    cdef int64_t D = call.ints[0], mode = call.ints[1]
    cdef int64_t L = call.inputs[0].shape[1] // D, R = call.inputs[1].shape[1] // D
    cdef int64_t b
    for b in range(first, last):
        if mode == MULTIPLY:
            multiply_row(left + b * L * D, right + b * R * D, out + b * L * R * D, L, R, D)
        else:
            dot_row(left + b * L * D, right + b * R * D, out + b * L * R, L, R, D)


cdef void backward(
    const Call* call, int64_t first, int64_t last, floating* left_grad,
) noexcept nogil:
    cdef const floating* grad = <const floating*> call.inputs[0].data
    cdef const floating* left = <const floating*> call.inputs[1].data
    cdef const floating* right = <const floating*> call.inputs[2].data
    cdef floating* right_grad = <floating*> call.outputs[1].data
    cdef int64_t D = call.ints[0], mode = call.ints[1]
    cdef int64_t L = call.inputs[1].shape[1] // D, R = call.inputs[2].shape[1] // D
    cdef int64_t b
    for b in range(first, last):
        if mode == MULTIPLY:
            multiply_grad_row(
                grad + b * L * R * D, left + b * L * D, right + b * R * D,
                left_grad + b * L * D, right_grad + b * R * D, L, R, D)
        else:
            dot_grad_row(
                grad + b * L * R, left + b * L * D, right + b * R * D,
                left_grad + b * L * D, right_grad + b * R * D, L, R, D)


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


cdef int64_t out_width(const Array* left, const Array* right, const Call* call) noexcept nogil:
    """The width of ffm's output, or -1 where fields, dimension and batch do not fit."""
    cdef int64_t D = call.ints[0], mode = call.ints[1]
    if not is_matrix(left) or not is_matrix(right) or left.shape[0] != right.shape[0]:
        return -1
    if D < 1 or left.shape[1] % D or right.shape[1] % D or not MULTIPLY <= mode <= DOT:
        return -1
    return left.shape[1] // D * (right.shape[1] // D) * (D if mode == MULTIPLY else 1)


cdef bint ffm_shapes(Call* call) noexcept nogil:
    cdef int64_t width
    if not takes(call, 2, 2, 0):
        return False
    width = out_width(&call.inputs[0], &call.inputs[1], call)
    if width < 0:
        return False
    returns(call, call.inputs[0].shape[0], width)
    return True


cdef bint ffm_grad_shapes(Call* call) noexcept nogil:
    cdef int64_t width
    if not takes(call, 3, 2, 0):
        return False
    width = out_width(&call.inputs[1], &call.inputs[2], call)
    returns_like(call, 1)
    returns_like(call, 2)
    return width >= 0 and has_shape(&call.inputs[0], call.inputs[1].shape[0], width)


cdef void ffm(const Call* call) noexcept nogil:
    cdef int64_t work = call.inputs[0].size * (call.inputs[1].shape[1] // call.ints[0])
    for_rows(call, call.inputs[0].shape[0], work, forward_rows)


cdef void ffm_grad(const Call* call) noexcept nogil:
    cdef int64_t work = 2 * call.inputs[1].size * (call.inputs[2].shape[1] // call.ints[0])
    for_rows(call, call.inputs[1].shape[0], work, backward_rows)


KERNELS = {
    "ffm": exported(ffm, ffm_shapes),
    "ffm_grad": exported(ffm_grad, ffm_grad_shapes),
}
