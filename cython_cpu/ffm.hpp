/* SPDX-License-Identifier: Apache-2.0
 *
 * ffm's inner loops, for one row of the batch: l left field, r right field, d dimension.
 *
 *   multiply        out[r, d] = left[d] * right[r, d], for one l
 *   multiply_grad   left_grad[l, d] = sum over r of grad[l, r, d] * right[r, d]
 *                   right_grad[r, d] = sum over l of grad[l, r, d] * left[l, d]
 *
 * A few vectors of d are taken at a time, and r runs inside: `left` and the sum for it stay in
 * registers. Where D is a fraction of a vector (1, 2, 4, 8), as many fields as fill one are taken for
 * one field. What is left of D after whole vectors goes through shorter ones.
 *
 * dot and its gradient are matrix products (product.hpp), unless there are only a few pairs of fields.
 */
#ifndef MLAYERS_FFM_HPP
#define MLAYERS_FFM_HPP

#include "bodies.hpp"
#include "product.hpp"

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

/* As many copies of D numbers as fill a vector; D is a power of two below W. */
template <int F, int W, typename T>
MLAYERS_INLINE void fill_tile(const T *from, int64_t D, T (&tile)[W]) {
    if constexpr (F < W) {
        if (D != F) return fill_tile<2 * F, W>(from, D, tile);
        for (int i = 0; i < W; i += F) memcpy(tile + i, from, F * sizeof(T)); /* of a known size */
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
        for (int64_t d = 0; d < D; d++) {
            C sum = 0;
            for (int64_t i = d; i < W; i += D) sum += sums[0][i] + sums[1][i];
            store<1>(left_grad_d + d, sum);
        }
    } else {
        MultiplyGrad<T, T> all{grad_rd, left_d, right_rd, left_grad_d, right_sum_rd, R, D};
        cover<W, 4>(0, D, all);
    }
}

/* One pass over grad, by far the largest array, makes both results. */
template <typename T>
inline void multiply_grad(const T *grad_lrd, const T *left_ld, const T *right_rd, T *left_grad_ld,
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

/* --- dot, where a matrix product would be too small to be one --- */

constexpr int64_t FEW = 8; /* pairs of fields */

template <typename T>
inline void dot(const T *left_ld, const T *right_rd, T *out_lr, int64_t L, int64_t R, int64_t D) {
    constexpr int W = LANES<T>;
    if (L * R > FEW) return product<T>(L, R, D, left_ld, D, 1, right_rd, 1, D, out_lr);
    for (int64_t l = 0; l < L; l++)
        for (int64_t r = 0; r < R; r++) {
            const T *left_d = left_ld + l * D, *right_d = right_rd + r * D;
            Vector<Computed<T>, W> products = {};
            int64_t d = 0;
            for (; d + W <= D; d += W) products += load<W>(left_d + d) * load<W>(right_d + d);
            auto sum = sum_of_lanes<Computed<T>, W>(products);
            for (; d < D; d++) sum += load<1>(left_d + d) * load<1>(right_d + d);
            store<1>(out_lr + l * R + r, sum);
        }
}

/* out[d] = sum over i of scale[i * step] * x[i, d] */
template <typename T>
struct ScaledSum {
    const T *scale, *x_id;
    T *out_d;
    int64_t I, step, D;

    template <int W, int N>
    MLAYERS_INLINE void run(int64_t d) const {
        using C = Computed<T>;
        Vector<C, W> sum[N] = {};
        for (int64_t i = 0; i < I; i++)
            for (int n = 0; n < N; n++)
                sum[n] += all<W>(load<1>(scale + i * step)) * load<W>(x_id + i * D + d + n * W);
        for (int n = 0; n < N; n++) store<W>(out_d + d + n * W, sum[n]);
    }
};

/* left_grad = grad @ right, right_grad = grad.T @ left */
template <typename T>
inline void dot_grad(const T *grad_lr, const T *left_ld, const T *right_rd, T *left_grad_ld,
                     T *right_grad_rd, int64_t L, int64_t R, int64_t D) {
    constexpr int W = LANES<T>;
    if (L * R > FEW) {
        product<T>(L, D, R, grad_lr, R, 1, right_rd, D, 1, left_grad_ld);
        product<T>(R, D, L, grad_lr, 1, R, left_ld, D, 1, right_grad_rd);
        return;
    }
    for (int64_t l = 0; l < L; l++)
        cover<W, 2>(0, D, ScaledSum<T>{grad_lr + l * R, right_rd, left_grad_ld + l * D, R, 1, D});
    for (int64_t r = 0; r < R; r++)
        cover<W, 2>(0, D, ScaledSum<T>{grad_lr + r, left_ld, right_grad_rd + r * D, L, R, D});
}

/* --- the whole of a call, whose rows are those of the batch --- */

enum { MULTIPLY = 0, DOT = 1 }; /* the order in which mlayers/ops/ffm.py declares the choices */

/* What a call says of sizes; `left` is the position of its left input. */
struct Sizes {
    int64_t L, R, D;

    Sizes(const mlayers_call *call, int left)
        : L(call->inputs[left].shape[1] / call->ints[0]),
          R(call->inputs[left + 1].shape[1] / call->ints[0]),
          D(call->ints[0]) {}
};

template <typename T>
inline void multiply_rows(const mlayers_call *call, int64_t first, int64_t last) {
    constexpr int64_t ROOM = 16384; /* bytes that are made in the first cache and then streamed out */
    const Sizes n(call, 0);
    const T *left_bld = input<T>(call, 0), *right_brd = input<T>(call, 1);
    T *out_blrd = output<T>(call, 0);
    char room[ROOM];
    const int64_t width = n.R * n.D * sizeof(T); /* what one left field makes */
    const bool streams = call->streams && width <= ROOM;
    int64_t made = 0;
    for (int64_t bl = first * n.L; bl < last * n.L; bl++) {
        T *out_rd = streams ? reinterpret_cast<T *>(room + made) : out_blrd + bl * n.R * n.D;
        multiply(left_bld + bl * n.D, right_brd + bl / n.L * n.R * n.D, out_rd, n.R, n.D);
        if (!streams) continue;
        made += width;
        if (made + width > ROOM || bl == last * n.L - 1) {
            stream(reinterpret_cast<char *>(out_blrd + (bl + 1) * n.R * n.D) - made, room, made);
            made = 0;
        }
    }
    if (streams) stream_done();
}

template <typename T>
inline void forward_rows(const mlayers_call *call, int64_t first, int64_t last) {
    if (call->ints[1] == MULTIPLY) return multiply_rows<T>(call, first, last);
    const Sizes n(call, 0);
    for (int64_t b = first; b < last; b++)
        dot(input<T>(call, 0) + b * n.L * n.D, input<T>(call, 1) + b * n.R * n.D,
            output<T>(call, 0) + b * n.L * n.R, n.L, n.R, n.D);
}

template <typename T>
inline void backward_rows(const mlayers_call *call, int64_t first, int64_t last) {
    const Sizes n(call, 1);
    const bool multiplies = call->ints[1] == MULTIPLY;
    const auto grad_row = multiplies ? multiply_grad<T> : dot_grad<T>;
    const int64_t width = n.L * n.R * (multiplies ? n.D : 1);
    for (int64_t b = first; b < last; b++)
        grad_row(input<T>(call, 0) + b * width, input<T>(call, 1) + b * n.L * n.D,
                 input<T>(call, 2) + b * n.R * n.D, output<T>(call, 0) + b * n.L * n.D,
                 output<T>(call, 1) + b * n.R * n.D, n.L, n.R, n.D);
}

constexpr mlayers_body FORWARD_ROWS[] = MLAYERS_BODIES(forward_rows);
constexpr mlayers_body BACKWARD_ROWS[] = MLAYERS_BODIES(backward_rows);

}  // namespace
}  // namespace mlayers
#endif
