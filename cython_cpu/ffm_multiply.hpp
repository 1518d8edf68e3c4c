/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loops of ffm's multiply: b row of the batch, l left field, r right field, d dimension.
 *
 *   multiply        out[b, l, r, d] = left[b, l, d] * right[b, r, d]
 *   multiply_grad   left_grad[b, l, d] = sum over r of grad[b, l, r, d] * right[b, r, d]
 *                   right_grad[b, r, d] = sum over l of grad[b, l, r, d] * left[b, l, d]
 *
 * A few vectors of d are taken at a time, and r runs inside: `left` and the sum for it stay in
 * registers; where right is small, it and its sums do too (ffm_multiply_held.hpp). Where D is a
 * fraction of a vector (1, 2, 4, 8), as many fields as fill one are taken for one field. What is left
 * of D after whole vectors goes through shorter ones.
 */
#ifndef MLAYERS_FFM_MULTIPLY_HPP
#define MLAYERS_FFM_MULTIPLY_HPP

#include "ffm_multiply_held.hpp"

namespace mlayers {
namespace {

template <typename T>
struct Multiply {
    const T *left_d, *right_rd;
    T *out_rd;
    int64_t R, D;

    template <int W, int N>
    MLAYERS_INLINE void run(int64_t d) const {
        Vector<Computed<T>, W> left[N];
        for (int i = 0; i < N; i++) left[i] = load<W>(left_d + d + i * W);
        for (int64_t r = 0; r < R; r++)
            for (int i = 0; i < N; i++) {
                int64_t at = r * D + d + i * W;
                ask_ahead<W, true>(out_rd + at, i);
                store<W>(out_rd + at, left[i] * load<W>(right_rd + at));
            }
    }
};

/* For one l; right_sum[r, d] += grad[r, d] * left[d] keeps what l adds to right_grad. G is the type of
 * left_grad: T, or what T is computed in. */
template <typename T, typename G>
struct MultiplyGrad {
    const T *grad_rd, *left_d, *right_rd;
    G *left_grad_d;
    Computed<T> *right_sum_rd;
    int64_t R, D;

    template <int W, int N>
    MLAYERS_INLINE void run(int64_t d) const {
        using V = Vector<Computed<T>, W>;
        V left[N], left_sum[N];
        for (int i = 0; i < N; i++) {
            left[i] = load<W>(left_d + d + i * W);
            left_sum[i] = V{};
        }
        for (int64_t r = 0; r < R; r++)
            for (int i = 0; i < N; i++) {
                int64_t at = r * D + d + i * W;
                ask_ahead<W, false>(grad_rd + at, i);
                V grad = load<W>(grad_rd + at);
                left_sum[i] += grad * load<W>(right_rd + at);
                store<W>(right_sum_rd + at, load<W>(right_sum_rd + at) + grad * left[i]);
            }
        for (int i = 0; i < N; i++) store<W>(left_grad_d + d + i * W, left_sum[i]);
    }
};

template <typename T>
inline void multiply_field(const T *left_d, const T *right_rd, T *out_rd, int64_t R, int64_t D) {
    constexpr int W = LANES<T>;
    if (D < W && W % D == 0) {
        T tile[W];
        int64_t whole = R * D / W;
        store<W>(tile, load_repeated<1, W>(left_d, D));
        cover<W, 1>(0, W, Multiply<T>{tile, right_rd, out_rd, whole, W});
        cover<W, 1>(0, R * D - whole * W,
                    Multiply<T>{tile, right_rd + whole * W, out_rd + whole * W, 1, W});
    } else {
        cover<W, 4>(0, D, Multiply<T>{left_d, right_rd, out_rd, R, D});
    }
}

/* out[d] = sum over i of a[i * a_step + d] * b[i * b_step + d] */
template <typename T>
struct SumOfProducts {
    const T *a, *b;
    T *out_d;
    int64_t I, a_step, b_step;

    template <int W, int N>
    MLAYERS_INLINE void run(int64_t d) const {
        Vector<Computed<T>, W> sum[N] = {};
        for (int64_t i = 0; i < I; i++)
            for (int n = 0; n < N; n++)
                sum[n] += load<W>(a + i * a_step + d + n * W) * load<W>(b + i * b_step + d + n * W);
        for (int n = 0; n < N; n++) store<W>(out_d + d + n * W, sum[n]);
    }
};

template <typename T>
inline void multiply_grad_field(const T *grad_rd, const T *left_d, const T *right_rd,
                                T *left_grad_d, Computed<T> *right_sum_rd, int64_t R, int64_t D) {
    using C = Computed<T>;
    constexpr int W = LANES<T>;
    if (D < W && W % D == 0) {
        T tile[W];
        C sums[2][W] = {};
        int64_t whole = R * D / W, done = whole * W;
        store<W>(tile, load_repeated<1, W>(left_d, D));
        MultiplyGrad<T, C> most{grad_rd, tile, right_rd, sums[0], right_sum_rd, whole, W};
        MultiplyGrad<T, C> rest{
            grad_rd + done, tile, right_rd + done, sums[1], right_sum_rd + done, 1, W};
        cover<W, 1>(0, W, most);
        cover<W, 1>(0, R * D - done, rest);
        store_folded<1, W>(left_grad_d, load<W>(sums[0]) + load<W>(sums[1]), D);
    } else {
        MultiplyGrad<T, T> all{grad_rd, left_d, right_rd, left_grad_d, right_sum_rd, R, D};
        cover<W, 4>(0, D, all);
    }
}

/* --- rows of the batch --- */

template <typename T>
inline void multiply(const T *left_bld, const T *right_brd, T *out_blrd, int64_t B, int64_t L,
                     int64_t R, int64_t D) {
    if (run_held<HELD, LANES<T>>(R * D, D, MultiplyHeld<T>{left_bld, right_brd, out_blrd, B, L, D}))
        return;
    for (int64_t b = 0; b < B; b++)
        for (int64_t bl = b * L; bl < (b + 1) * L; bl++)
            multiply_field(left_bld + bl * D, right_brd + b * R * D, out_blrd + bl * R * D, R, D);
}

/* For one row; one pass over grad, by far the largest array, makes both results. */
template <typename T>
inline void multiply_grad_row(const T *grad_lrd, const T *left_ld, const T *right_rd, T *left_grad_ld,
                              T *right_grad_rd, int64_t L, int64_t R, int64_t D) {
    using C = Computed<T>;
    constexpr int64_t ROOM = 4096; /* sums in float for a half right_grad: 16 KB of first cache */
    if constexpr (std::is_same<T, C>::value) {
        memset(right_grad_rd, 0, R * D * sizeof(T));
        for (int64_t l = 0; l < L; l++)
            multiply_grad_field(grad_lrd + l * R * D, left_ld + l * D, right_rd,
                                left_grad_ld + l * D, right_grad_rd, R, D);
    } else if (R * D <= ROOM) {
        C sums_rd[ROOM];
        memset(sums_rd, 0, R * D * sizeof(C));
        for (int64_t l = 0; l < L; l++)
            multiply_grad_field(grad_lrd + l * R * D, left_ld + l * D, right_rd,
                                left_grad_ld + l * D, sums_rd, R, D);
        convert(sums_rd, right_grad_rd, R * D);
    } else { /* no room for the sums: two passes */
        for (int64_t l = 0; l < L; l++)
            cover<LANES<T>, 4>(0, D, SumOfProducts<T>{grad_lrd + l * R * D, right_rd,
                                                      left_grad_ld + l * D, R, D, D});
        for (int64_t r = 0; r < R; r++)
            cover<LANES<T>, 4>(0, D, SumOfProducts<T>{grad_lrd + r * D, left_ld,
                                                      right_grad_rd + r * D, L, R * D, D});
    }
}

template <typename T>
inline void multiply_grad(const T *grad_blrd, const T *left_bld, const T *right_brd, T *left_grad_bld,
                          T *right_grad_brd, int64_t B, int64_t L, int64_t R, int64_t D) {
    const MultiplyGradHeld<T> f{grad_blrd, left_bld, right_brd, left_grad_bld, right_grad_brd, B, L, D};
    if (run_held<HELD, LANES<T>>(R * D, D, f)) return;
    for (int64_t b = 0; b < B; b++)
        multiply_grad_row(grad_blrd + b * L * R * D, left_bld + b * L * D, right_brd + b * R * D,
                          left_grad_bld + b * L * D, right_grad_brd + b * R * D, L, R, D);
}

}  // namespace
}  // namespace mlayers
#endif
