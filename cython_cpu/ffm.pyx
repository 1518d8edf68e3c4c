# SPDX-License-Identifier: Apache-2.0
# distutils: language = c++
"""FFM on the CPU: out[b,l,r,d] = left[b,l,d] * right[b,r,d], or its sum over d (dot).

b batch, l left field, r right field, d dimension. A row is a batch row and is computed by one
thread, so results do not depend on the thread count. The loops inside a row are in ffm.hpp.
"""
from call cimport (
    Array, Body, Call, exported, for_rows, has_shape, is_matrix, returns, returns_like, takes,
)
from libc.stdint cimport int64_t

cdef extern from "ffm.hpp" namespace "mlayers" nogil:
    int64_t MULTIPLY
    int64_t DOT
    const Body* FORWARD_ROWS  # by dtype
    const Body* BACKWARD_ROWS


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
    for_rows(call, call.inputs[0].shape[0], work, FORWARD_ROWS[call.dtype])


cdef void ffm_grad(const Call* call) noexcept nogil:
    cdef int64_t work = 2 * call.inputs[1].size * (call.inputs[2].shape[1] // call.ints[0])
    for_rows(call, call.inputs[1].shape[0], work, BACKWARD_ROWS[call.dtype])


KERNELS = {
    "ffm": exported(ffm, ffm_shapes),
    "ffm_grad": exported(ffm_grad, ffm_grad_shapes),
}
