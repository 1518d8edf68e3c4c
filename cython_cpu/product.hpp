/* SPDX-License-Identifier: Apache-2.0
 *
 * Small matrix products, such as a row's 16 left fields times its 16 right ones.
 *
 *   product   out[m, n] = (or +=) sum over k of a[m, k] * b[k, n]
 *
 * A BLAS is made for large products and spends more on a small one than the product itself. Here a
 * block of out, 8 or 16 rows by one vector or 4 rows by up to 4, stays in registers while k runs; each step
 * takes vectors of b's row k and one number of a for each row. So b must have its n side by side and
 * be numbers the arithmetic knows: else a block of it is first laid down so (`pack`). For half types
 * that is done to a as well, and sums are kept in float until the last k.
 *
 * Each number of out is one sum in the order of k, whatever the block it falls into.
 */
#ifndef MLAYERS_PRODUCT_HPP
#define MLAYERS_PRODUCT_HPP

#include <type_traits>

#include "vector.hpp"

namespace mlayers {

/* Element (i, j) is data[i * row + j * column]. */
template <typename T>
struct Matrix {
    T *data;
    int64_t row, column;

    MLAYERS_INLINE Matrix from(int64_t i, int64_t j) const {
        return {data + i * row + j * column, row, column};
    }
};

namespace {

template <typename T>
MLAYERS_INLINE Matrix<T> turned(Matrix<T> x) {
    return {x.data, x.column, x.row};
}

constexpr int PACK = 64; /* the side of a packed block: 16 KB of float */

MLAYERS_INLINE int64_t at_most_pack(int64_t n) { return n < PACK ? n : PACK; }

template <int M, int N, int W, typename C>
MLAYERS_INLINE void product_block(int64_t K, Matrix<const C> a, Matrix<const C> b, Matrix<C> out,
                                  bool add) {
    Vector<C, W> sum[M][N];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++)
            sum[m][n] = add ? load<W>(out.data + m * out.row + n * W) : Vector<C, W>{};
    for (int64_t k = 0; k < K; k++) {
        Vector<C, W> b_n[N];
        for (int n = 0; n < N; n++) b_n[n] = load<W>(b.data + k * b.row + n * W);
        for (int m = 0; m < M; m++) {
            Vector<C, W> a_m = all<W>(a.data[m * a.row + k * a.column]);
            for (int n = 0; n < N; n++) sum[m][n] += a_m * b_n[n];
        }
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) store<W>(out.data + m * out.row + n * W, sum[m][n]);
}

/* All rows, in blocks of MOST and, at the end, of less. */
template <int MOST, int N, int W, typename C>
MLAYERS_INLINE void product_rows(int64_t M, int64_t K, Matrix<const C> a, Matrix<const C> b,
                                 Matrix<C> out, bool add) {
    for (; M >= MOST; M -= MOST) {
        product_block<MOST, N, W>(K, a, b, out, add);
        a = a.from(MOST, 0);
        out = out.from(MOST, 0);
    }
    if constexpr (MOST > 1)
        if (M > 0) product_rows<MOST / 2, N, W>(M, K, a, b, out, add);
}

/* N vectors of columns, for all rows. Not inlined: it is the same registers wherever it is called.
 * More than 8 rows have more addresses than there are registers, unless those are known: in a tile. */
template <int N, int W, typename C>
__attribute__((noinline)) void product_columns(int64_t M, int64_t K, Matrix<const C> a, Matrix<const C> b,
                            Matrix<C> out, bool add) {
    constexpr int MOST = N == 1 ? 8 : 4, MOST_OF_TILE = N == 1 && VECTOR_BYTES >= 64 ? 16 : MOST;
    if (N == 1 && a.row == PACK && a.column == 1)
        product_rows<MOST_OF_TILE, N, W>(M, K, Matrix<const C>{a.data, PACK, 1}, b, out, add);
    else
        product_rows<MOST, N, W>(M, K, a, b, out, add);
}

/* b's rows and out's rows have their numbers side by side. */
template <int W, typename C>
inline void product_direct(int64_t M, int64_t N, int64_t K, Matrix<const C> a, Matrix<const C> b,
                           Matrix<C> out, bool add) {
    constexpr int MOST = VECTOR_BYTES >= 64 ? 4 : 2; /* 16 of 32, or 8 of 16 registers hold sums */
    auto step = [&](int64_t width) {
        b.data += width;
        out.data += width;
        N -= width;
    };
    if constexpr (W == LANES<C>) {
        for (; N >= MOST * W; step(MOST * W)) product_columns<MOST, W>(M, K, a, b, out, add);
        if constexpr (MOST == 4)
            for (; N >= 2 * W; step(2 * W)) product_columns<2, W>(M, K, a, b, out, add);
    }
    for (; N >= W; step(W)) product_columns<1, W>(M, K, a, b, out, add);
    if constexpr (W > 1)
        if (N > 0) product_direct<W / 2>(M, N, K, a, b, out, add);
}

/* to[i * PACK + j] = from(i, j) */
template <typename T, typename C>
inline void pack(int64_t I, int64_t J, Matrix<const T> from, C *to) {
    int64_t i = 0;
    if (from.column == 1) {
        for (; i < I; i++) convert(from.data + i * from.row, to + i * PACK, J);
    } else if (from.row == 1) { /* its columns lie side by side: four of each at once, turned round */
        for (; i + 4 <= I; i += 4) {
            int64_t j = 0;
            for (; j + 4 <= J; j += 4) {
                Vector<C, 4> x[4];
                for (int c = 0; c < 4; c++) x[c] = load<4>(from.data + i + (j + c) * from.column);
                transpose<C>(x);
                for (int r = 0; r < 4; r++) store<4>(to + (i + r) * PACK + j, x[r]);
            }
            for (; j < J; j++)
                for (int r = 0; r < 4; r++)
                    to[(i + r) * PACK + j] = load<1>(from.data + i + r + j * from.column);
        }
    }
    for (; i < I; i++)
        for (int64_t j = 0; j < J; j++)
            to[i * PACK + j] = load<1>(from.data + i * from.row + j * from.column);
}

/* O is the type of out: T, or what T is computed in. */
template <typename T, typename O>
inline void product(int64_t M, int64_t N, int64_t K, Matrix<const T> a, Matrix<const T> b,
                    Matrix<O> out, bool add) {
    using C = Computed<T>;
    constexpr bool pack_a = !std::is_same<T, C>::value, convert_out = !std::is_same<O, C>::value;
    C b_block[PACK * PACK], a_block[pack_a ? PACK * PACK : 1],
        out_block[convert_out ? PACK * PACK : 1];
    if constexpr (!pack_a)
        if (b.column == 1) return product_direct<LANES<C>>(M, N, K, a, b, out, add);
    for (int64_t n = 0; n < N; n += PACK)
        for (int64_t m = 0; m < M; m += PACK) {
            int64_t n_block = at_most_pack(N - n), m_block = at_most_pack(M - m);
            auto target = out.from(m, n);
            Matrix<C> sums;
            if constexpr (convert_out) {
                sums = {out_block, PACK, 1};
                if (add) pack(m_block, n_block, Matrix<const O>{target.data, target.row, 1}, sums.data);
            } else {
                sums = target;
            }
            for (int64_t k = 0; k < K || k == 0; k += PACK) {
                int64_t k_block = at_most_pack(K - k);
                auto a_part = a.from(m, k);
                Matrix<const C> left;
                if constexpr (pack_a) {
                    pack(m_block, k_block, a_part, a_block);
                    left = {a_block, PACK, 1};
                } else {
                    left = a_part;
                }
                pack(k_block, n_block, b.from(k, n), b_block);
                product_direct<LANES<C>>(m_block, n_block, k_block, left,
                                         Matrix<const C>{b_block, PACK, 1}, sums, add || k > 0);
            }
            if constexpr (convert_out)
                for (int64_t i = 0; i < m_block; i++)
                    convert(out_block + i * PACK, target.data + i * target.row, n_block);
        }
}

/* The same for Cython, which likes its arguments plain. */
template <typename T>
inline void product(int64_t M, int64_t N, int64_t K, const T *a, int64_t a_row, int64_t a_column,
                    const T *b, int64_t b_row, int64_t b_column, T *out) {
    product<T, T>(M, N, K, {a, a_row, a_column}, {b, b_row, b_column}, {out, N, 1}, false);
}

}  // namespace
}  // namespace mlayers
#endif
