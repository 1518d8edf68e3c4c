/* SPDX-License-Identifier: Apache-2.0
 *
 * feature_insight's loops, by tiles of PACK rows: b batch, n input column, s segment, k output column.
 *
 *   forward      part[b, k] = sum over the n of a segment of input[b, n] * weight[n, k]
 *   gradient     with up[b, k] the upstream of `part`:
 *                input_grad[b, n] = sum over k of up[b, k] * weight[n, k]
 *                weight_grad[n, k] = sum over b of input[b, n] * up[b, k]
 *
 * aggregate sums part² over k, so its up is 2 * grad[b] * part[b, k], which is computed again, a tile
 * at a time (or in no way, by feature_insight_squares.hpp): nothing of the size (B, K) is ever held. All sums are kept in what T is computed in, in
 * an order that does not depend on how the work is shared out.
 */
#ifndef MLAYERS_FEATURE_INSIGHT_HPP
#define MLAYERS_FEATURE_INSIGHT_HPP

#include "bodies.hpp"
#include "product.hpp"

namespace mlayers {

namespace {

/* What one segment sees: its own columns of the input, rows of the weight, columns of the output. */
template <typename T>
struct Segment {
    Matrix<const T> input_bn, weight_nk;
    Matrix<T> out_bk; /* or the upstream of it; (B, 1) with aggregate */
    int64_t B, N, K;
    bool aggregate;
};

template <typename C>
using Tile = C[PACK * PACK];

template <typename C>
MLAYERS_INLINE Matrix<C> matrix(Tile<C> &tile) {
    return {tile, PACK, 1};
}

template <typename T>
MLAYERS_INLINE Matrix<const T> constant(Matrix<T> x) {
    return {x.data, x.row, x.column};
}

template <typename C>
inline C sum_of_squares(const C *x, int64_t n) {
    constexpr int W = LANES<C>;
    Vector<C, W> squares = {};
    int64_t i = 0;
    for (; i + W <= n; i += W) squares += load<W>(x + i) * load<W>(x + i);
    C total = fold<C, 1, W>(squares);
    for (; i < n; i++) total += x[i] * x[i];
    return total;
}

template <typename T>
inline void forward(const Segment<T> &x, int64_t first, int64_t last) {
    using C = Computed<T>;
    for (int64_t b = first; b < last; b += PACK) {
        int64_t rows = at_most_pack(last - b);
        if (!x.aggregate) {
            product<T, T>(rows, x.K, x.N, x.input_bn.from(b, 0), x.weight_nk, x.out_bk.from(b, 0), false);
            continue;
        }
        C totals[PACK] = {};
        for (int64_t k = 0; k < x.K; k += PACK) {
            Tile<C> part;
            int64_t columns = at_most_pack(x.K - k);
            product<T, C>(rows, columns, x.N, x.input_bn.from(b, 0), x.weight_nk.from(0, k),
                          matrix<C>(part), false);
            for (int64_t i = 0; i < rows; i++) totals[i] += sum_of_squares(part + i * PACK, columns);
        }
        for (int64_t i = 0; i < rows; i++) store<1>(x.out_bk.from(b + i, 0).data, totals[i]);
    }
}

/* A part of an array as what it is computed in: half types in `tile`, others where they are. To lay
 * all of them down side by side was tried: it waits for memory that the products fetch as they go. */
template <typename T>
MLAYERS_INLINE Matrix<const Computed<T>> computed_part(int64_t I, int64_t J, Matrix<const T> from,
                                                       Tile<Computed<T>> &tile) {
    using C = Computed<T>;
    if constexpr (std::is_same<T, C>::value) {
        return from;
    } else {
        pack(I, J, from, tile);
        return constant(matrix<C>(tile));
    }
}

/* The upstream of `part` for a tile. */
template <typename T>
inline Matrix<const Computed<T>> upstream(const Segment<T> &x, int64_t b, int64_t k, int64_t rows,
                                          int64_t columns, Tile<Computed<T>> &tile) {
    using C = Computed<T>;
    if (x.aggregate) {
        product<T, C>(rows, columns, x.N, x.input_bn.from(b, 0), x.weight_nk.from(0, k),
                      matrix<C>(tile), false);
        for (int64_t i = 0; i < rows; i++) {
            C scale = 2 * load<1>(x.out_bk.from(b + i, 0).data);
            for (int64_t j = 0; j < columns; j++) tile[i * PACK + j] *= scale;
        }
        return constant(matrix<C>(tile));
    }
    return computed_part<T>(rows, columns, constant(x.out_bk.from(b, k)), tile);
}

template <typename T>
inline void store_tile(int64_t I, int64_t J, const Computed<T> *tile, Matrix<T> to) {
    for (int64_t i = 0; i < I; i++) convert(tile + i * PACK, to.from(i, 0).data, J);
}

/* A tile of an output as one product. */
template <typename T>
inline void product_into(int64_t M, int64_t N, int64_t K, Matrix<const Computed<T>> a,
                         Matrix<const Computed<T>> b, Matrix<T> out) {
    using C = Computed<T>;
    if constexpr (std::is_same<T, C>::value) {
        product<C, C>(M, N, K, a, b, out, false);
    } else {
        Tile<C> tile;
        product<C, C>(M, N, K, a, b, matrix<C>(tile), false);
        store_tile<T>(M, N, tile, out);
    }
}

/* input_grad for rows first to last. `up` is made once for all n; for half types, whose sums need more
 * digits than input_grad has, once for each PACK of them. */
template <typename T>
inline void input_grad(const Segment<T> &x, Matrix<T> input_grad_bn, int64_t first, int64_t last) {
    using C = Computed<T>;
    constexpr bool half = !std::is_same<T, C>::value;
    Tile<C> up, weight, sums;
    auto add = [&](int64_t b, int64_t n, int64_t k, Matrix<const C> up_bk, Matrix<C> out) {
        int64_t wide = at_most_pack(x.N - n), columns = at_most_pack(x.K - k);
        auto weight_nk = computed_part<T>(wide, columns, x.weight_nk.from(n, k), weight);
        product<C, C>(at_most_pack(last - b), wide, columns, up_bk, turned(weight_nk), out, k > 0);
    };
    auto up_of = [&](int64_t b, int64_t k) {
        return upstream(x, b, k, at_most_pack(last - b), at_most_pack(x.K - k), up);
    };
    for (int64_t b = first; b < last; b += PACK) {
        if constexpr (half) {
            for (int64_t n = 0; n < x.N; n += PACK) {
                for (int64_t k = 0; k < x.K || k == 0; k += PACK)
                    add(b, n, k, up_of(b, k), matrix<C>(sums));
                store_tile<T>(at_most_pack(last - b), at_most_pack(x.N - n), sums,
                              input_grad_bn.from(b, n));
            }
        } else {
            for (int64_t k = 0; k < x.K || k == 0; k += PACK) {
                auto up_bk = up_of(b, k);
                for (int64_t n = 0; n < x.N; n += PACK)
                    add(b, n, k, up_bk, input_grad_bn.from(b, n));
            }
        }
    }
}

/* What a tile of rows adds to weight_grad for rows n to `end` and columns k to k + PACK. Where
 * `input_grad_bn` is given, these are all of the segment's, and the same pass over the upstream makes
 * input_grad. */
template <typename T>
inline void weight_grad_tile(const Segment<T> &x, Matrix<Computed<T>> sums_nk,
                             Matrix<T> input_grad_bn, int64_t b, int64_t n, int64_t end,
                             int64_t k) {
    using C = Computed<T>;
    int64_t columns = at_most_pack(x.K - k), rows = at_most_pack(x.B - b);
    Tile<C> up, input, weight;
    auto up_bk = upstream(x, b, k, rows, columns, up);
    for (int64_t i = n; i < end; i += PACK) {
        int64_t wide = at_most_pack(x.N - i);
        auto input_bn = computed_part<T>(rows, wide, x.input_bn.from(b, i), input);
        product<C, C>(wide, columns, rows, turned(input_bn), up_bk, sums_nk.from(i - n, 0), b > 0);
        if (input_grad_bn.data == nullptr) continue;
        auto weight_nk = computed_part<T>(wide, columns, x.weight_nk.from(i, k), weight);
        product_into<T>(rows, wide, columns, up_bk, turned(weight_nk), input_grad_bn.from(b, i));
    }
}

/* --- the whole of a call --- */

/* A walk over the segments of a call: from 0, forwards. */
template <typename T>
struct Segments {
    const mlayers_call *call;
    int first_input; /* the position of the embedding; the weight follows it */
    T *out;          /* or its upstream */
    int64_t s = 0, n = 0;

    int64_t count() const { return call->n_ints - 1; }

    Segment<T> at(int64_t segment) {
        const mlayers_array *input = &call->inputs[first_input], *weight = input + 1;
        const int64_t *sizes = call->ints + 1, N = input->shape[1], K = weight->shape[1];
        bool aggregate = call->ints[0];
        int64_t width = aggregate ? 1 : K;
        for (; s < segment; s++) n += sizes[s];
        return {{static_cast<const T *>(input->data) + n, N, 1},
                {static_cast<const T *>(weight->data) + n * K, K, 1},
                {out + s * width, count() * width, 1},
                input->shape[0], sizes[s], K, aggregate};
    }
};

/* A few rows at a time, so that input, weight and output are all gone through in their order; more of
 * half types, because the weight is converted for each. */
template <typename T>
inline void forward_rows(const mlayers_call *call, int64_t first, int64_t last) {
    constexpr int64_t ROWS = std::is_same<T, Computed<T>>::value ? 16 : PACK;
    for (int64_t b = first; b < last; b += ROWS) {
        Segments<T> segments{call, 0, static_cast<T *>(call->outputs[0].data)};
        int64_t end = last - b < ROWS ? last : b + ROWS;
        for (int64_t s = 0; s < segments.count(); s++) forward(segments.at(s), b, end);
    }
}

template <typename T>
inline void input_grad_rows(const mlayers_call *call, int64_t first, int64_t last) {
    Segments<T> segments{call, 1, static_cast<T *>(call->inputs[0].data)};
    int64_t N = call->inputs[1].shape[1];
    for (int64_t s = 0; s < segments.count(); s++) {
        Segment<T> segment = segments.at(s);
        T *grad = static_cast<T *>(call->outputs[0].data) + segments.n;
        input_grad<T>(segment, {grad, N, 1}, first, last);
    }
}

MLAYERS_INLINE int64_t blocks(int64_t n) { return (n + PACK - 1) / PACK; }

inline int64_t widest_segment(const mlayers_call *call) {
    int64_t most = 0;
    for (int64_t i = 1; i < call->n_ints; i++) most = call->ints[i] > most ? call->ints[i] : most;
    return most;
}

/* How many blocks of weights a segment has at most. */
inline int64_t blocks_per_segment(const mlayers_call *call) {
    return blocks(widest_segment(call)) * blocks(call->inputs[2].shape[1]);
}

/* A row is a block of weights, of which a segment has `blocks_per_segment`, the last ones empty. Rows
 * of the batch are read in their order, tile by tile, and sums stay in weight_grad meanwhile; for half
 * types, whose sums need more digits, it is block by block. With aggregate, whose upstream takes a
 * product to make, the first block of a column takes those below it along. */
template <typename T>
inline void weight_grad_blocks(const mlayers_call *call, int64_t first, int64_t last) {
    constexpr bool half = !std::is_same<T, Computed<T>>::value;
    int64_t per_segment = blocks_per_segment(call);
    int64_t B = call->inputs[1].shape[0], N = call->inputs[1].shape[1], K = call->inputs[2].shape[1];
    bool both = per_segment == 1; /* the block is the segment */
    auto add_tile = [&](Segments<T> &segments, int64_t i, int64_t b, auto sums) {
        Segment<T> segment = segments.at(i / per_segment);
        int64_t n = i % per_segment / blocks(K) * PACK, k = i % blocks(K) * PACK;
        bool whole = segment.aggregate && !half;
        if (n >= segment.N || (whole && n > 0)) return;
        int64_t end = whole ? segment.N : n + 1;
        T *weight_grad = static_cast<T *>(call->outputs[1].data) + (segments.n + n) * K + k;
        T *input_grad = static_cast<T *>(call->outputs[0].data) + segments.n;
        Matrix<T> input_grad_bn = {both ? input_grad : nullptr, N, 1}, out = {weight_grad, K, 1};
        if constexpr (half) {
            weight_grad_tile<T>(segment, sums, input_grad_bn, b, n, end, k);
            if (b + PACK >= B)
                store_tile<T>(at_most_pack(segment.N - n), at_most_pack(K - k), sums.data, out);
        } else {
            weight_grad_tile<T>(segment, out, input_grad_bn, b, n, end, k);
        }
    };
    if constexpr (half) {
        Segments<T> segments{call, 1, static_cast<T *>(call->inputs[0].data)};
        for (int64_t i = first; i < last; i++) {
            Tile<Computed<T>> sums;
            for (int64_t b = 0; b < B || b == 0; b += PACK)
                add_tile(segments, i, b, matrix<Computed<T>>(sums));
        }
    } else {
        for (int64_t b = 0; b < B || b == 0; b += PACK) {
            Segments<T> segments{call, 1, static_cast<T *>(call->inputs[0].data)};
            for (int64_t i = first; i < last; i++) add_tile(segments, i, b, nullptr);
        }
    }
}

constexpr mlayers_body FORWARD_ROWS[] = MLAYERS_BODIES(forward_rows);
constexpr mlayers_body INPUT_GRAD_ROWS[] = MLAYERS_BODIES(input_grad_rows);
constexpr mlayers_body WEIGHT_GRAD_BLOCKS[] = MLAYERS_BODIES(weight_grad_blocks);

}  // namespace
}  // namespace mlayers
#endif
