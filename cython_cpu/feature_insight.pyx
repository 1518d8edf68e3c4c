# SPDX-License-Identifier: Apache-2.0
"""Feature insight on the CPU: a matrix product kept apart per segment of input columns.

out[b,s,k] = sum over the columns n of segment s of input[b,n] * weight[n,k]; aggregate squares
that and sums it over k. Aggregate works on BLOCK output columns at a time, so neither the forward
nor the gradient ever holds a (B, S, K) array, nor even K numbers.

b batch, n input column, s segment, k output column. Forward and input gradient give each thread
whole batch rows, the weight gradient gives it whole weight rows or blocks: no atomics, and results
do not depend on the thread count.
"""
from call cimport (
    FLOAT32, Call, exported, for_rows, has_shape, is_matrix, returns, returns_like,
)
from cython cimport floating
from libc.stdint cimport int64_t

cdef enum:
    BLOCK = 64  # output columns per block: 256 or 512 bytes, held in registers and first cache


cdef inline int64_t blocks_of(int64_t K) noexcept nogil:
    return (K + BLOCK - 1) // BLOCK


cdef inline int64_t project(
    const floating* input_n, const floating* weight_nk, floating* out_k,
    int64_t first, int64_t last, int64_t K, int64_t k0,
) noexcept nogil:
    """out_k[j] = sum over n in [first, last) of input[n] * weight[n, k0 + j]; returns its width."""
    cdef int64_t n, j, width = K - k0 if K - k0 < BLOCK else BLOCK
    cdef const floating* weight_k
    for j in range(width):
        out_k[j] = 0
    for n in range(first, last):
        weight_k = weight_nk + n * K + k0
        for j in range(width):
            out_k[j] += input_n[n] * weight_k[j]
    return width


cdef void forward_row(
    const floating* input_n, const floating* weight_nk, floating* out_s,
    const int64_t* sizes, int64_t S, int64_t K, bint aggregate,
) noexcept nogil:
    cdef floating block_k[BLOCK]
    cdef floating total
    cdef int64_t s, i, j, k0, width, first = 0
    for s in range(S):
        total = 0
        for i in range(blocks_of(K)):
            k0 = i * BLOCK
            if aggregate:
                width = project(input_n, weight_nk, block_k, first, first + sizes[s], K, k0)
                for j in range(width):
                    total += block_k[j] * block_k[j]
            else:
                project(input_n, weight_nk, out_s + s * K + k0, first, first + sizes[s], K, k0)
        if aggregate:
            out_s[s] = total
        first += sizes[s]


cdef void forward(const Call* call, int64_t first, int64_t last, floating* out) noexcept nogil:
    cdef const floating* input_bn = <const floating*> call.inputs[0].data
    cdef const floating* weight_nk = <const floating*> call.inputs[1].data
    cdef bint aggregate = call.ints[0]
    cdef const int64_t* sizes = call.ints + 1
    cdef int64_t N = call.inputs[0].shape[1], K = call.inputs[1].shape[1], S = call.n_ints - 1
    cdef int64_t b, width = S if aggregate else S * K
    for b in range(first, last):
        forward_row(input_bn + b * N, weight_nk, out + b * width, sizes, S, K, aggregate)


cdef void input_grad_row(
    const floating* grad_s, const floating* input_n, const floating* weight_nk,
    floating* input_grad_n, const int64_t* sizes, int64_t S, int64_t K, bint aggregate,
) noexcept nogil:
    """input_grad[n] = sum over k of upstream[s(n), k] * weight[n, k]."""
    cdef floating block_k[BLOCK]
    cdef const floating* upstream_k
    cdef const floating* weight_k
    cdef floating scale, total
    cdef int64_t s, n, i, j, k0, width, first = 0
    for s in range(S):
        for n in range(first, first + sizes[s]):
            input_grad_n[n] = 0
        for i in range(blocks_of(K)):
            k0 = i * BLOCK
            if aggregate:  # d(sum of y²) = 2 y dy; y is cheaper to compute again than to keep
                width = project(input_n, weight_nk, block_k, first, first + sizes[s], K, k0)
                upstream_k = block_k
                scale = 2 * grad_s[s]
            else:
                width = K - k0 if K - k0 < BLOCK else BLOCK
                upstream_k = grad_s + s * K + k0
                scale = 1
            for n in range(first, first + sizes[s]):
                weight_k = weight_nk + n * K + k0
                total = 0
                for j in range(width):
                    total += upstream_k[j] * weight_k[j]
                input_grad_n[n] += scale * total
        first += sizes[s]


cdef void weight_grad_block(
    const floating* grad_bs, const floating* input_bn, const floating* weight_nk,
    floating* weight_grad_nk, const int64_t* sizes, int64_t S, int64_t K, int64_t B, int64_t N,
    int64_t s, int64_t k0, bint aggregate,
) noexcept nogil:
    """weight_grad[n, k] = sum over b of input[b, n] * upstream[b, s, k], for BLOCK ks of s."""
    cdef floating block_k[BLOCK]
    cdef const floating* upstream_k
    cdef floating* weight_grad_k
    cdef floating scale
    cdef int64_t b, n, j, first = 0, width = K - k0 if K - k0 < BLOCK else BLOCK
    for n in range(s):
        first += sizes[n]
    for n in range(first, first + sizes[s]):
        for j in range(width):
            weight_grad_nk[n * K + k0 + j] = 0
    for b in range(B):
        if aggregate:
            project(input_bn + b * N, weight_nk, block_k, first, first + sizes[s], K, k0)
            upstream_k = block_k
            scale = 2 * grad_bs[b * S + s]
        else:
            upstream_k = grad_bs + (b * S + s) * K + k0
            scale = 1
        for n in range(first, first + sizes[s]):
            weight_grad_k = weight_grad_nk + n * K + k0
            for j in range(width):
                weight_grad_k[j] += scale * input_bn[b * N + n] * upstream_k[j]


cdef void input_grad(
    const Call* call, int64_t first, int64_t last, floating* input_grad_bn,
) noexcept nogil:
    """A row is a batch row."""
    cdef const floating* grad_bs = <const floating*> call.inputs[0].data
    cdef const floating* input_bn = <const floating*> call.inputs[1].data
    cdef const floating* weight_nk = <const floating*> call.inputs[2].data
    cdef bint aggregate = call.ints[0]
    cdef int64_t N = call.inputs[1].shape[1], K = call.inputs[2].shape[1], S = call.n_ints - 1
    cdef int64_t b, width = S if aggregate else S * K
    for b in range(first, last):
        input_grad_row(
            grad_bs + b * width, input_bn + b * N, weight_nk, input_grad_bn + b * N,
            call.ints + 1, S, K, aggregate)


cdef void weight_grad(
    const Call* call, int64_t first, int64_t last, floating* weight_grad_nk,
) noexcept nogil:
    """A row is BLOCK columns of one segment."""
    cdef const floating* grad_bs = <const floating*> call.inputs[0].data
    cdef const floating* input_bn = <const floating*> call.inputs[1].data
    cdef const floating* weight_nk = <const floating*> call.inputs[2].data
    cdef int64_t B = call.inputs[1].shape[0], N = call.inputs[1].shape[1]
    cdef int64_t K = call.inputs[2].shape[1], S = call.n_ints - 1, blocks = blocks_of(K)
    cdef int64_t i
    for i in range(first, last):
        weight_grad_block(
            grad_bs, input_bn, weight_nk, weight_grad_nk, call.ints + 1, S, K, B, N,
            i // blocks, (i % blocks) * BLOCK, call.ints[0])


cdef void forward_rows(const Call* call, int64_t first, int64_t last) noexcept nogil:
    if call.dtype == FLOAT32:
        forward(call, first, last, <float*> call.outputs[0].data)
    else:
        forward(call, first, last, <double*> call.outputs[0].data)


cdef void input_grad_rows(const Call* call, int64_t first, int64_t last) noexcept nogil:
    if call.dtype == FLOAT32:
        input_grad(call, first, last, <float*> call.outputs[0].data)
    else:
        input_grad(call, first, last, <double*> call.outputs[0].data)


cdef void weight_grad_rows(const Call* call, int64_t first, int64_t last) noexcept nogil:
    if call.dtype == FLOAT32:
        weight_grad(call, first, last, <float*> call.outputs[1].data)
    else:
        weight_grad(call, first, last, <double*> call.outputs[1].data)


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
    for_rows(call, call.inputs[0].shape[0], work, forward_rows)


cdef void feature_insight_grad(const Call* call) noexcept nogil:
    cdef int64_t K = call.inputs[2].shape[1], work = call.inputs[1].size * K
    for_rows(call, call.inputs[1].shape[0], work, input_grad_rows)
    for_rows(call, (call.n_ints - 1) * blocks_of(K), work, weight_grad_rows)


KERNELS = {
    "feature_insight": exported(feature_insight, feature_insight_shapes),
    "feature_insight_grad": exported(feature_insight_grad, feature_insight_grad_shapes),
}
