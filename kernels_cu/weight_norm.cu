// SPDX-License-Identifier: Apache-2.0
//
// weight_norm and its gradients. Axes: i input, o output column, of a kernel.
//
//     weight_norm         out = kernel scale, scale[o] = norm / length,
//                         length^2 = max(sum over i of kernel^2, eps)
//     weight_norm_grad    norm_grad[o] = sum over i of grad kernel / length
//                         kernel_grad = grad scale - kernel along,
//                         along[o] = norm_grad norm / length^2, or 0 where the sum is below eps
//
// A block takes ACROSS neighbouring columns from top to bottom and back: on the way down for the sums,
// of which each of its GROUPS of threads, one thread a column, makes a part; on the way up for the
// results, when the rows that were read last still lie in the L2 cache. weight_norm.py compiles in
// how wide and how many. Deterministic.
//
// Floors at 512 x 512, float32: 2 MB and 3 MB, which an H200's L2 cache holds; so the time is that of a
// launch and of the rounds through memory that the rows of a thread take, 8 at once: 2.7 and 3.6 us
// measured. A wide kernel, 8192 x 8192, moves 537 and 806 MB: 125 and 187 us at 4.3 TB/s. But its
// columns are more than the cache holds and are read twice, 187 and 312 us; 211 and 329 measured.

struct Sums {
    real squares, products;
};

// Of this thread's column: each thread adds its rows, then the parts of all groups.
template <bool GRAD>
__device__ __forceinline__ Sums column_sums(const scalar* kernel, const scalar* grad, i64 I, i64 O,
                                            i64 column, Sums (&parts)[GROUPS][ACROSS]) {
    const int lane = threadIdx.x % ACROSS, group = threadIdx.x / ACROSS;
    Sums sums = {};
    if (column < O) {
#pragma unroll 8
        for (i64 i = group; i < I; i += GROUPS) {
            const real k = widen(kernel[i * O + column]);
            sums.squares += k * k;
            if constexpr (GRAD) sums.products += widen(grad[i * O + column]) * k;
        }
    }
    parts[group][lane] = sums;
    __syncthreads();
    sums = {};
#pragma unroll 8
    for (int g = 0; g < GROUPS; g++) {
        sums.squares += parts[g][lane].squares;
        if constexpr (GRAD) sums.products += parts[g][lane].products;
    }
    return sums;
}

// The last row that this thread takes, below 0 if it takes none; GROUPS is a power of 2.
__device__ __forceinline__ i64 last_row(i64 I) {
    const int group = threadIdx.x / ACROSS;
    return I - 1 - ((I - 1 - group) & (GROUPS - 1));
}

// A NaN is not below eps, and stays.
__device__ __forceinline__ bool is_short(real squares) { return squares < (real)1e-6; }

__device__ __forceinline__ real inverse_length(real squares) {
    return 1 / sqrt(is_short(squares) ? (real)1e-6 : squares);
}

extern "C" __global__ void __launch_bounds__(ACROSS * GROUPS)
weight_norm(const scalar* __restrict__ kernel, const scalar* __restrict__ norm,
            scalar* __restrict__ out, i64 I, i64 O) {
    __shared__ Sums parts[GROUPS][ACROSS];
    const i64 column = blockIdx.x * (i64)ACROSS + threadIdx.x % ACROSS;
    const Sums sums = column_sums<false>(kernel, kernel, I, O, column, parts);
    if (column >= O) return;
    const real scale = widen(norm[column]) * inverse_length(sums.squares);
#pragma unroll 8
    for (i64 i = last_row(I); i >= 0; i -= GROUPS)
        out[i * O + column] = narrow(widen(kernel[i * O + column]) * scale);
}

extern "C" __global__ void __launch_bounds__(ACROSS * GROUPS)
weight_norm_grad(const scalar* __restrict__ grad, const scalar* __restrict__ kernel,
                 const scalar* __restrict__ norm, scalar* __restrict__ kernel_grad,
                 scalar* __restrict__ norm_grad, i64 I, i64 O) {
    __shared__ Sums parts[GROUPS][ACROSS];
    const i64 column = blockIdx.x * (i64)ACROSS + threadIdx.x % ACROSS;
    const Sums sums = column_sums<true>(kernel, grad, I, O, column, parts);
    if (column >= O) return;
    const real inverse = inverse_length(sums.squares), slope = sums.products * inverse;
    const real scale = widen(norm[column]) * inverse;
    const real along = is_short(sums.squares) ? 0 : slope * scale * inverse;
    if (threadIdx.x < ACROSS) norm_grad[column] = narrow(slope);
#pragma unroll 4
    for (i64 i = last_row(I); i >= 0; i -= GROUPS) {
        const i64 at = i * O + column;
        kernel_grad[at] = narrow(widen(grad[at]) * scale - widen(kernel[at]) * along);
    }
}
