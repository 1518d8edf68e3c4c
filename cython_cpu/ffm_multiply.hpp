/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loops of ffm's multiply, for one row of the batch: l left field, r right field, d
 * dimension.
 *
 *   multiply        out[r, d] = left[d] * right[r, d], for one l
 *   multiply_grad   left_grad[l, d] = sum over r of grad[l, r, d] * right[r, d]
 *                   right_grad[r, d] = sum over l of grad[l, r, d] * left[l, d]
 *
 * A few vectors of d are taken at a time, and r runs inside: `left` and the sum for it stay in
 * registers; where right is small, it and its sums do too. Where D is a fraction of a vector (1, 2, 4,
 * 8), as many fields as fill one are taken for one field. What is left of D after whole vectors goes
 * through shorter ones.
 */
#ifndef MLAYERS_FFM_MULTIPLY_HPP
#define MLAYERS_FFM_MULTIPLY_HPP

#include "vector.hpp"

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
                V grad = load<W>(grad_rd + at);
                left_sum[i] += grad * load<W>(right_rd + at);
                store<W>(right_sum_rd + at, load<W>(right_sum_rd + at) + grad * left[i]);
            }
        for (int i = 0; i < N; i++) store<W>(left_grad_d + d + i * W, left_sum[i]);
    }
};

/* As many copies of D numbers as fill a vector; D is a power of two up to W. */
template <int F, int W, typename T>
MLAYERS_INLINE void fill_tile(const T *from, int64_t D, T (&tile)[W]) {
    if constexpr (F <= W) {
        if (D != F) return fill_tile<2 * F, W>(from, D, tile);
        for (int i = 0; i < W; i += F) memcpy(tile + i, from, F * sizeof(T)); /* of a known size */
    }
}

/* The other way round: what lies D apart, added. */
template <int W, typename T>
MLAYERS_INLINE void store_folded(T *to, Vector<Computed<T>, W> x, int64_t D) {
    if (D == W) return store<W>(to, x);
    Computed<T> lanes[W];
    store<W>(lanes, x);
    for (int64_t d = 0; d < D; d++) {
        Computed<T> sum = 0;
        for (int64_t i = d; i < W; i += D) sum += lanes[i];
        store<1>(to + d, sum);
    }
}

template <typename T>
inline void multiply(const T *left_d, const T *right_rd, T *out_rd, int64_t R, int64_t D) {
    constexpr int W = LANES<T>;
    if (D < W && W % D == 0) {
        T tile[W];
        int64_t whole = R * D / W;
        fill_tile<1, W>(left_d, D, tile);
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
        fill_tile<1, W>(left_d, D, tile);
        MultiplyGrad<T, C> most{grad_rd, tile, right_rd, sums[0], right_sum_rd, whole, W};
        MultiplyGrad<T, C> rest{
            grad_rd + done, tile, right_rd + done, sums[1], right_sum_rd + done, 1, W};
        cover<W, 1>(0, W, most);
        cover<W, 1>(0, R * D - done, rest);
        store_folded<W>(left_grad_d, load<W>(sums[0]) + load<W>(sums[1]), D);
    } else {
        MultiplyGrad<T, T> all{grad_rd, left_d, right_rd, left_grad_d, right_sum_rd, R, D};
        cover<W, 4>(0, D, all);
    }
}

/* How many vectors of right, and as many sums, stay in registers: AVX-512 has 32. */
constexpr int HELD = VECTOR_BYTES == 64 ? 12 : 4;

/* The whole of a row where right fills V vectors, of fields as wide as one or narrower; false where
 * it fills no such number. Of the caches it asks for grad alone, where multiply_grad_field reads right
 * too, and reads and writes its sums: with 1024 rows of 10 left and 12 right fields it takes 0.6, 0.7
 * and 0.9 of the time for D = 4, 8 and 16. */
template <int V, typename T>
inline bool multiply_grad_held(const T *grad_lrd, const T *left_ld, const T *right_rd,
                               T *left_grad_ld, T *right_grad_rd, int64_t L, int64_t R, int64_t D) {
    if constexpr (V <= HELD) {
        using C = Computed<T>;
        constexpr int W = LANES<T>;
        if (R * D != V * W)
            return multiply_grad_held<V + 1>(grad_lrd, left_ld, right_rd, left_grad_ld,
                                             right_grad_rd, L, R, D);
        Vector<C, W> right[V], right_sum[V] = {};
        for (int v = 0; v < V; v++) right[v] = load<W>(right_rd + v * W);
        for (int64_t l = 0; l < L; l++) {
            T tile[W];
            fill_tile<1, W>(left_ld + l * D, D, tile);
            Vector<C, W> left = load<W>(tile), left_sum = {};
            for (int v = 0; v < V; v++) {
                Vector<C, W> grad = load<W>(grad_lrd + (l * V + v) * W);
                left_sum += grad * right[v];
                right_sum[v] += grad * left;
            }
            store_folded<W>(left_grad_ld + l * D, left_sum, D);
        }
        for (int v = 0; v < V; v++) store<W>(right_grad_rd + v * W, right_sum[v]);
        return true;
    }
    return false;
}

/* One pass over grad, by far the largest array, makes both results. */
template <typename T>
inline void multiply_grad(const T *grad_lrd, const T *left_ld, const T *right_rd, T *left_grad_ld,
                          T *right_grad_rd, int64_t L, int64_t R, int64_t D) {
    using C = Computed<T>;
    constexpr int64_t ROOM = 4096; /* sums in float for a half right_grad: 16 KB of first cache */
    constexpr int W = LANES<T>;
    if (D <= W && W % D == 0 && multiply_grad_held<1>(grad_lrd, left_ld, right_rd, left_grad_ld,
                                                      right_grad_rd, L, R, D))
        return;
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

}  // namespace
}  // namespace mlayers
#endif
