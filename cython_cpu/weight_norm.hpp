/* SPDX-License-Identifier: Apache-2.0
 *
 * Weight norm's loops. Axes: i input, o output column, of a kernel.
 *
 *     weight_norm         out = kernel scale, scale[o] = norm / length,
 *                         length^2 = max(sum over i of kernel^2, eps)
 *     weight_norm_grad    norm_grad[o] = sum over i of grad kernel / length
 *                         kernel_grad = grad scale - kernel along,
 *                         along[o] = norm_grad norm / length^2, or 0 where the sum is below eps
 *
 * So many columns at a time that they stay in the cache: once through their rows for the sums, and
 * once more for the results. Each array crosses the memory once. The sums of a column have one order,
 * whatever the threads: deterministic bit by bit.
 */
#ifndef MLAYERS_WEIGHT_NORM_HPP
#define MLAYERS_WEIGHT_NORM_HPP

#include <cmath>

#include "bodies.hpp"

namespace mlayers {
namespace {

/* Columns: what threads share them by, and at most so many at a time. Rows are read along memory: by
 * four vectors at a time, from top to bottom, 512 x 512 took 125 us where a copy takes 38. */
constexpr int64_t PANEL = 256, WIDEST = 512;
constexpr int64_t CACHED = 1 << 18; /* numbers that stay in the cache, 1 MB of float */
constexpr int ROWS = 4;             /* that are added before their sum is put down */
constexpr double EPSILON = 1e-6;

/* Adds the squares of rows of the kernel, and their products with the upstream gradient. */
template <typename T, int R, bool GRAD>
struct Add {
    const T *kernel, *grad;
    int64_t O;
    Computed<T> *squares, *products;

    template <int W, int N>
    MLAYERS_INLINE void run(int64_t o) const {
        using V = Vector<Computed<T>, W>;
        for (int n = 0; n < N; n++, o += W) {
            V square = {}, product = {};
            for (int r = 0; r < R; r++) {
                V k = load<W>(kernel + r * O + o);
                square += k * k;
                if constexpr (GRAD) product += load<W>(grad + r * O + o) * k;
            }
            store<W>(squares + o, load<W>(squares + o) + square);
            if constexpr (GRAD) store<W>(products + o, load<W>(products + o) + product);
        }
    }
};

/* Makes the sums what rows are multiplied by: squares to scale, products to along. */
template <typename T, bool GRAD>
inline void finish(int64_t columns, const T *norm, T *norm_grad, Computed<T> *squares,
                   Computed<T> *products) {
    using C = Computed<T>;
    for (int64_t o = 0; o < columns; o++) {
        bool is_short = squares[o] < C(EPSILON); /* a NaN is not, and stays */
        C inverse = C(1) / std::sqrt(is_short ? C(EPSILON) : squares[o]);
        C scale = load<1>(norm + o) * inverse;
        squares[o] = scale;
        if constexpr (GRAD) {
            C one_norm_grad = products[o] * inverse;
            store<1>(norm_grad + o, one_norm_grad);
            products[o] = is_short ? C(0) : one_norm_grad * scale * inverse;
        }
    }
}

/* A row of the results. */
template <typename T, bool GRAD>
struct Scale {
    const T *kernel, *grad;
    T *out;
    const Computed<T> *scale, *along;

    template <int W, int N>
    MLAYERS_INLINE void run(int64_t o) const {
        for (int n = 0; n < N; n++, o += W) {
            auto k = load<W>(kernel + o), by = load<W>(scale + o);
            if constexpr (GRAD)
                store<W>(out + o, load<W>(grad + o) * by - k * load<W>(along + o));
            else
                store<W>(out + o, k * by);
        }
    }
};

template <typename T, bool GRAD>
inline void columns(const T *kernel, const T *grad, const T *norm, T *out, T *norm_grad, int64_t I,
                    int64_t O, int64_t first, int64_t last) {
    constexpr int W = LANES<T>, N = 4;
    alignas(64) Computed<T> squares[WIDEST], products[WIDEST];
    int64_t width = CACHED / (I + 1) / 64 * 64;
    if (width < 64) width = 64;
    if (width > WIDEST) width = WIDEST;
    for (; first < last; first += width) {
        int64_t n = last - first < width ? last - first : width, i = 0;
        for (int64_t o = 0; o < n; o++) squares[o] = products[o] = 0;
        for (; i + ROWS <= I; i += ROWS)
            cover<W, N>(0, n, Add<T, ROWS, GRAD>{kernel + i * O + first, grad + i * O + first, O,
                                                 squares, products});
        for (; i < I; i++)
            cover<W, N>(0, n, Add<T, 1, GRAD>{kernel + i * O + first, grad + i * O + first, O,
                                              squares, products});
        finish<T, GRAD>(n, norm + first, norm_grad + first, squares, products);
        for (i = 0; i < I; i++) {
            int64_t at = i * O + first;
            cover<W, N>(0, n, Scale<T, GRAD>{kernel + at, grad + at, out + at, squares, products});
        }
    }
}

/* The columns of the panels first to last. */
template <typename T>
inline void norm_panels(const mlayers_call *call, int64_t first, int64_t last) {
    const T *kernel = input<T>(call, 0), *norm = input<T>(call, 1);
    int64_t I = call->inputs[0].shape[0], O = call->inputs[0].shape[1];
    T *out = output<T>(call, 0);
    /* There is no gradient: the kernel in its place is not looked at. */
    columns<T, false>(kernel, kernel, norm, out, out, I, O, first * PANEL,
                      last * PANEL < O ? last * PANEL : O);
}

template <typename T>
inline void norm_grad_panels(const mlayers_call *call, int64_t first, int64_t last) {
    int64_t I = call->inputs[0].shape[0], O = call->inputs[0].shape[1];
    columns<T, true>(input<T>(call, 1), input<T>(call, 0), input<T>(call, 2), output<T>(call, 0),
                     output<T>(call, 1), I, O, first * PANEL, last * PANEL < O ? last * PANEL : O);
}

constexpr mlayers_body NORM_PANELS[] = MLAYERS_BODIES(norm_panels);
constexpr mlayers_body NORM_GRAD_PANELS[] = MLAYERS_BODIES(norm_grad_panels);

}  // namespace
}  // namespace mlayers
#endif
