# SPDX-License-Identifier: Apache-2.0
# distutils: language = c++
"""Feature insight on the CPU: a matrix product kept apart per segment of input columns.

out[b,s,k] = sum over the columns n of segment s of input[b,n] * weight[n,k]; aggregate squares
that and sums it over k. b batch, n input column, s segment, k output column. The loops are in
feature_insight.hpp.

Forward and input gradient give each thread whole batch rows, the weight gradient gives it whole
blocks of weights, or whole segments: no atomics, and results do not depend on the thread count.
"""
from call cimport Body, Call, exported, for_rows, has_shape, is_matrix, returns, returns_like
from libc.stdint cimport int64_t

cdef extern from "feature_insight.hpp" namespace "mlayers" nogil:
    const Body* FORWARD_ROWS  # each by dtype
    const Body* INPUT_GRAD_ROWS
    const Body* WEIGHT_GRAD_BLOCKS
    int64_t blocks_per_segment(const Call*) noexcept

cdef extern from "feature_insight_squares.hpp" namespace "mlayers" nogil:
    const Body* BY_SQUARES_SEGMENTS
    bint goes_by_squares(const Call*) noexcept


cdef int64_t out_width(const Call* call, int input) noexcept nogil:
    """The width of feature_insight's output, or -1 where embedding, weight and sizes do not fit.

    `input` is the position of the embedding; the weight follows it.
    """
    cdef int64_t S = call.n_ints - 1, s, total = 0
    if S < 1 or call.n_floats or not is_matrix(&call.inputs[input]):
        return -1
    for s in range(S):
        if call.ints[1 + s] < 0 or call.ints[1 + s] > call.inputs[input].shape[1]:
            return -1
        total += call.ints[1 + s]
    if total != call.inputs[input].shape[1] or not is_matrix(&call.inputs[input + 1]):
        return -1
    if call.inputs[input + 1].shape[0] != total:
        return -1
    return S if call.ints[0] else S * call.inputs[input + 1].shape[1]


cdef bint feature_insight_shapes(Call* call) noexcept nogil:
    cdef int64_t width = out_width(call, 0) if call.n_inputs == 2 else -1
    if width < 0:
        return False
    returns(call, call.inputs[0].shape[0], width)
    return True


cdef bint feature_insight_grad_shapes(Call* call) noexcept nogil:
    cdef int64_t width = out_width(call, 1) if call.n_inputs == 3 else -1
    if width < 0:
        return False
    returns_like(call, 1)
    returns_like(call, 2)
    return has_shape(&call.inputs[0], call.inputs[1].shape[0], width)


cdef void feature_insight(const Call* call) noexcept nogil:
    cdef int64_t work = call.inputs[0].size * call.inputs[1].shape[1]
    for_rows(call, call.inputs[0].shape[0], work, FORWARD_ROWS[call.dtype])


cdef void feature_insight_grad(const Call* call) noexcept nogil:
    cdef int64_t work = 2 * call.inputs[1].size * call.inputs[2].shape[1]
    cdef int64_t blocks = blocks_per_segment(call)
    if goes_by_squares(call):
        for_rows(call, call.n_ints - 1, work, BY_SQUARES_SEGMENTS[call.dtype])
        return
    if blocks != 1:  # else a block of weights is a segment, and makes both gradients
        for_rows(call, call.inputs[1].shape[0], work, INPUT_GRAD_ROWS[call.dtype])
    for_rows(call, (call.n_ints - 1) * blocks, work, WEIGHT_GRAD_BLOCKS[call.dtype])


KERNELS = {
    "feature_insight": exported(feature_insight, feature_insight_shapes),
    "feature_insight_grad": exported(feature_insight_grad, feature_insight_grad_shapes),
}
