# SPDX-License-Identifier: Apache-2.0
# distutils: language = c++
"""FFM on the CPU: out[b,l,r,d] = left[b,l,d] * right[b,r,d], or its sum over d (dot).

b batch, l left field, r right field, d dimension. A row is a batch row and is computed by one
thread, so results do not depend on the thread count. The loops inside a row are in ffm.hpp.
"""
from call cimport (
    BFLOAT16, FLOAT16, FLOAT32, Array, Call, exported, for_rows, has_shape, is_matrix, returns,
    returns_like, takes,
)
from libc.stdint cimport int64_t
from vector cimport bfloat16, float16, number, stream, stream_done

cdef extern from "ffm.hpp" namespace "mlayers" nogil:
    void multiply[T](const T* left_d, const T* right_rd, T* out_rd, int64_t R, int64_t D) noexcept
    void multiply_grad[T](
        const T* grad_lrd, const T* left_ld, const T* right_rd, T* left_grad_ld, T* right_grad_rd,
        int64_t L, int64_t R, int64_t D) noexcept
    void dot[T](
        const T* left_ld, const T* right_rd, T* out_lr, int64_t L, int64_t R, int64_t D) noexcept
    void dot_grad[T](
        const T* grad_lr, const T* left_ld, const T* right_rd, T* left_grad_ld, T* right_grad_rd,
        int64_t L, int64_t R, int64_t D) noexcept

cdef enum IntType:  # the order in which mlayers/ops/ffm.py declares the choices
    MULTIPLY = 0
    DOT = 1

cdef enum:
    ROOM = 16384  # bytes that are made in the first cache before they are streamed out


cdef void multiply_rows(
    const number* left_bld, const number* right_brd, number* out_blrd,
    int64_t first, int64_t last, int64_t L, int64_t R, int64_t D, bint streams,
) noexcept nogil:
    cdef char[ROOM] room
    cdef int64_t width = R * D * sizeof(number)  # what one left field makes
    cdef int64_t bl, made = 0
    cdef number* out_rd
    streams = streams and width <= ROOM
    for bl in range(first * L, last * L):
        out_rd = <number*> (room + made) if streams else out_blrd + bl * R * D
        multiply(left_bld + bl * D, right_brd + bl // L * R * D, out_rd, R, D)
        if streams:
            made += width
            if made + width > ROOM or bl == last * L - 1:
                stream(<char*> (out_blrd + (bl + 1) * R * D) - made, room, made)
                made = 0
    if streams:
        stream_done()


cdef void forward(const Call* call, int64_t first, int64_t last, number* out) noexcept nogil:
    cdef const number* left = <const number*> call.inputs[0].data
    cdef const number* right = <const number*> call.inputs[1].data
    cdef int64_t D = call.ints[0], mode = call.ints[1]
    cdef int64_t L = call.inputs[0].shape[1] // D, R = call.inputs[1].shape[1] // D
    cdef int64_t b
    if mode == MULTIPLY:
        multiply_rows(left, right, out, first, last, L, R, D, call.streams)
        return
    for b in range(first, last):
        dot(left + b * L * D, right + b * R * D, out + b * L * R, L, R, D)


cdef void backward(
    const Call* call, int64_t first, int64_t last, number* left_grad,
) noexcept nogil:
    cdef const number* grad = <const number*> call.inputs[0].data
    cdef const number* left = <const number*> call.inputs[1].data
    cdef const number* right = <const number*> call.inputs[2].data
    cdef number* right_grad = <number*> call.outputs[1].data
    cdef int64_t D = call.ints[0], mode = call.ints[1]
    cdef int64_t L = call.inputs[1].shape[1] // D, R = call.inputs[2].shape[1] // D
    cdef int64_t b
    for b in range(first, last):
        if mode == MULTIPLY:
            multiply_grad(
                grad + b * L * R * D, left + b * L * D, right + b * R * D,
                left_grad + b * L * D, right_grad + b * R * D, L, R, D)
        else:
            dot_grad(
                grad + b * L * R, left + b * L * D, right + b * R * D,
                left_grad + b * L * D, right_grad + b * R * D, L, R, D)


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
    cdef void* left_grad = call.outputs[0].data
    if call.dtype == FLOAT32:
        backward(call, first, last, <float*> left_grad)
    elif call.dtype == FLOAT16:
        backward(call, first, last, <float16*> left_grad)
    elif call.dtype == BFLOAT16:
        backward(call, first, last, <bfloat16*> left_grad)
    else:
        backward(call, first, last, <double*> left_grad)


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
