/* SPDX-License-Identifier: Apache-2.0
 *
 * ffm of the rows of a call: b batch, l left field, r right field, d dimension.
 *
 * multiply is in ffm_multiply.hpp. dot and its gradient are matrix products (product.hpp), unless
 * there are only a few pairs of fields.
 */
#ifndef MLAYERS_FFM_HPP
#define MLAYERS_FFM_HPP

#include "bodies.hpp"
#include "ffm_multiply.hpp"
#include "product.hpp"

namespace mlayers {
namespace {

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
            auto sum = fold<Computed<T>, 1, W>(products);
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
    const Sizes n(call, 0);
    multiply(input<T>(call, 0) + first * n.L * n.D, input<T>(call, 1) + first * n.R * n.D,
             output<T>(call, 0) + first * n.L * n.R * n.D, last - first, n.L, n.R, n.D);
}

/* The same for an output that is not to be in the caches: streamed out of the registers, or made in the
 * first cache, whole rows or as many left fields of one as there is room for, and streamed out of it. */
template <typename T>
inline void multiply_rows_streaming(const mlayers_call *call, int64_t first, int64_t last) {
    constexpr int64_t ROOM = 16384; /* bytes */
    const Sizes n(call, 0);
#if defined(__AVX512F__)
    if constexpr (std::is_same<T, Computed<T>>::value) {
        const MultiplyHeld<T, Lines> f{input<T>(call, 0) + first * n.L * n.D,
                                       input<T>(call, 1) + first * n.R * n.D,
                                       output<T>(call, 0) + first * n.L * n.R * n.D, last - first,
                                       n.L, n.D};
        if (run_held<HELD, LANES<T>, LANES<T>>(n.R * n.D, n.D, f)) return;
    }
#endif
    const int64_t width = n.R * n.D * sizeof(T); /* what one left field makes */
    if (width > ROOM) return multiply_rows<T>(call, first, last);
    alignas(64) T room[ROOM / sizeof(T)];
    const int64_t fields = ROOM / width < n.L ? ROOM / width : n.L;
    const int64_t rows = fields == n.L ? ROOM / (width * n.L) : 1;
    for (int64_t b = first; b < last; b += rows)
        for (int64_t l = 0; l < n.L; l += fields) {
            const int64_t bl = b * n.L + l;
            const int64_t B = rows < last - b ? rows : last - b;
            const int64_t L = fields < n.L - l ? fields : n.L - l;
            multiply(input<T>(call, 0) + bl * n.D, input<T>(call, 1) + b * n.R * n.D, room, B, L,
                     n.R, n.D);
            stream(output<T>(call, 0) + bl * n.R * n.D, room, B * L * width);
        }
    stream_done();
}

template <typename T>
inline void forward_rows(const mlayers_call *call, int64_t first, int64_t last) {
    if (call->ints[1] == MULTIPLY)
        return call->streams ? multiply_rows_streaming<T>(call, first, last)
                             : multiply_rows<T>(call, first, last);
    const Sizes n(call, 0);
    for (int64_t b = first; b < last; b++)
        dot(input<T>(call, 0) + b * n.L * n.D, input<T>(call, 1) + b * n.R * n.D,
            output<T>(call, 0) + b * n.L * n.R, n.L, n.R, n.D);
}

/* Gradients that are not to be in the caches go past them only out of registers: rows that were made in
 * the first cache hold the upstream up when they leave it, and took 0.9 to 1.1 of the time. */
template <typename T>
inline void multiply_grad_rows(const mlayers_call *call, int64_t first, int64_t last) {
    const Sizes n(call, 1);
    const int64_t left = n.L * n.D, right = n.R * n.D; /* numbers in a row */
    const T *grad_blrd = input<T>(call, 0) + first * n.L * right;
    const T *left_bld = input<T>(call, 1) + first * left;
    const T *right_brd = input<T>(call, 2) + first * right;
    T *left_grad_bld = output<T>(call, 0) + first * left;
    T *right_grad_brd = output<T>(call, 1) + first * right;
#if defined(__AVX512F__)
    if constexpr (std::is_same<T, Computed<T>>::value) {
        const MultiplyGradHeld<T, Lines> f{grad_blrd,      left_bld,     right_brd, left_grad_bld,
                                           right_grad_brd, last - first, n.L,       n.D};
        constexpr int W = LANES<T>;
        if (call->streams && n.D == W && run_held<HELD, W, W>(right, n.D, f)) return;
    }
#endif
    multiply_grad(grad_blrd, left_bld, right_brd, left_grad_bld, right_grad_brd, last - first, n.L,
                  n.R, n.D);
}

template <typename T>
inline void backward_rows(const mlayers_call *call, int64_t first, int64_t last) {
    if (call->ints[1] == MULTIPLY) return multiply_grad_rows<T>(call, first, last);
    const Sizes n(call, 1);
    const int64_t left = n.L * n.D, right = n.R * n.D;
    for (int64_t b = first; b < last; b++)
        dot_grad(input<T>(call, 0) + b * n.L * n.R, input<T>(call, 1) + b * left,
                 input<T>(call, 2) + b * right, output<T>(call, 0) + b * left,
                 output<T>(call, 1) + b * right, n.L, n.R, n.D);
}

constexpr mlayers_body FORWARD_ROWS[] = MLAYERS_BODIES(forward_rows);
constexpr mlayers_body BACKWARD_ROWS[] = MLAYERS_BODIES(backward_rows);

}  // namespace
}  // namespace mlayers
#endif
