# SPDX-License-Identifier: Apache-2.0
"""Feature insight on the CPU: a matrix product kept apart per segment of input columns.

out[b,s,k] = sum over the columns n of segment s of input[b,n] * weight[n,k]; aggregate squares
that and sums it over k. Aggregate works on BLOCK output columns at a time, so neither the forward
nor the gradient ever holds a (B, S, K) array, nor even K numbers.

b batch, n input column, s segment, k output column. Forward and input gradient give each thread
whole batch rows, the weight gradient gives it whole weight rows or blocks: no atomics, and results
do not depend on the thread count.
"""
from call cimport FLOAT32, Call, threads_for
from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating
from cython.parallel cimport prange
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


cdef void forward(const Call* call, floating* out) noexcept nogil:
    cdef const floating* input_bn = <const floating*> call.inputs[0].data
    cdef const floating* weight_nk = <const floating*> call.inputs[1].data
    cdef bint aggregate = call.ints[0]
    cdef const int64_t* sizes = call.ints + 1
    cdef int64_t B = call.inputs[0].shape[0], N = call.inputs[0].shape[1]
    cdef int64_t K = call.inputs[1].shape[1], S = call.n_ints - 1
    cdef int64_t b, width = S if aggregate else S * K
    for b in prange(B, schedule="static", num_threads=threads_for(call, B * N * K)):
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


cdef void backward(const Call* call, floating* input_grad_bn) noexcept nogil:
    cdef const floating* grad_bs = <const floating*> call.inputs[0].data
    cdef const floating* input_bn = <const floating*> call.inputs[1].data
    cdef const floating* weight_nk = <const floating*> call.inputs[2].data
    cdef floating* weight_grad_nk = <floating*> call.outputs[1].data
    cdef bint aggregate = call.ints[0]
    cdef const int64_t* sizes = call.ints + 1
    cdef int64_t B = call.inputs[1].shape[0], N = call.inputs[1].shape[1]
    cdef int64_t K = call.inputs[2].shape[1], S = call.n_ints - 1
    cdef int64_t blocks = blocks_of(K), width = S if aggregate else S * K
    cdef int64_t b, i, threads = threads_for(call, B * N * K)
    for b in prange(B, schedule="static", num_threads=threads):
        input_grad_row(
            grad_bs + b * width, input_bn + b * N, weight_nk, input_grad_bn + b * N,
            sizes, S, K, aggregate)
    for i in prange(S * blocks, schedule="static", num_threads=threads):
        weight_grad_block(
            grad_bs, input_bn, weight_nk, weight_grad_nk, sizes, S, K, B, N,
            i // blocks, (i % blocks) * BLOCK, aggregate)


cdef void feature_insight(const Call* call) noexcept nogil:
    if call.dtype == FLOAT32:
        forward(call, <float*> call.outputs[0].data)
    else:
        forward(call, <double*> call.outputs[0].data)


cdef void feature_insight_grad(const Call* call) noexcept nogil:
    if call.dtype == FLOAT32:
        backward(call, <float*> call.outputs[0].data)
    else:
        backward(call, <double*> call.outputs[0].data)


KERNELS = {
    "feature_insight": PyCapsule_New(<void*> feature_insight, b"mlayers_kernel", NULL),
    "feature_insight_grad": PyCapsule_New(<void*> feature_insight_grad, b"mlayers_kernel", NULL),
}
