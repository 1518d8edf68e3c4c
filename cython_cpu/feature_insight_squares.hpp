/* SPDX-License-Identifier: Apache-2.0
 *
 * The gradient of feature_insight's aggregate by way of square matrices, a segment's N by N columns.
 *
 *   with    weights = weight @ weight.T  and  inputs = sum over b of 2 grad[b] input[b].T @ input[b]
 *   is      input_grad[b] = 2 grad[b] input[b] @ weights  and  weight_grad = inputs @ weight
 *
 * A row takes 2 N² multiplications so, and 3 N K by way of the upstream of `part` (feature_insight.hpp).
 * The forward call does not go this way: input[b] @ weights @ input[b].T loses the digits that cancel,
 * and may come out below zero.
 */
#ifndef MLAYERS_FEATURE_INSIGHT_SQUARES_HPP
#define MLAYERS_FEATURE_INSIGHT_SQUARES_HPP

#include "feature_insight.hpp"

namespace mlayers {

namespace {

inline bool goes_by_squares(const mlayers_call *call) {
    int64_t B = call->inputs[1].shape[0], K = call->inputs[2].shape[1], N = widest_segment(call);
    return call->ints[0] && N <= PACK && 2 * N * (B + K) <= 3 * B * K;
}

template <typename T>
struct BySquares {
    using C = Computed<T>;
    Segment<T> x;
    Matrix<T> input_grad_bn, weight_grad_nk;
    Tile<C> weights, inputs;

    void begin() {
        product<T, C>(x.N, x.N, x.K, x.weight_nk, turned(x.weight_nk), matrix<C>(weights), false);
    }

    void add_rows(int64_t b) {
        int64_t rows = at_most_pack(x.B - b);
        Tile<C> input, scaled;
        auto input_bn = computed_part<T>(rows, x.N, x.input_bn.from(b, 0), input);
        for (int64_t i = 0; i < rows; i++) {
            C scale = 2 * load<1>(x.out_bk.from(b + i, 0).data);
            const C *from = input_bn.from(i, 0).data;
            for (int64_t n = 0; n < x.N; n++) scaled[i * PACK + n] = scale * from[n];
        }
        auto scaled_bn = constant(matrix<C>(scaled));
        product<C, C>(x.N, x.N, rows, turned(input_bn), scaled_bn, matrix<C>(inputs), b > 0);
        product_into<T>(rows, x.N, x.N, scaled_bn, constant(matrix<C>(weights)),
                        input_grad_bn.from(b, 0));
    }

    void end() {
        Tile<C> weight;
        for (int64_t k = 0; k < x.K; k += PACK) {
            int64_t columns = at_most_pack(x.K - k);
            auto weight_nk = computed_part<T>(x.N, columns, x.weight_nk.from(0, k), weight);
            product_into<T>(x.N, columns, x.N, constant(matrix<C>(inputs)), weight_nk,
                            weight_grad_nk.from(0, k));
        }
    }
};

/* A row is a segment. A few at a time, so that rows of the batch are gone through in their order. */
template <typename T>
inline void by_squares_segments(const mlayers_call *call, int64_t first, int64_t last) {
    constexpr int64_t TOGETHER = 4; /* 128 KB of float */
    int64_t B = call->inputs[1].shape[0], N = call->inputs[1].shape[1], K = call->inputs[2].shape[1];
    Segments<T> segments{call, 1, static_cast<T *>(call->inputs[0].data)};
    for (int64_t s = first; s < last; s += TOGETHER) {
        BySquares<T> grads[TOGETHER];
        int64_t together = last - s < TOGETHER ? last - s : TOGETHER;
        for (int64_t i = 0; i < together; i++) {
            grads[i].x = segments.at(s + i);
            T *input_grad = static_cast<T *>(call->outputs[0].data) + segments.n;
            T *weight_grad = static_cast<T *>(call->outputs[1].data) + segments.n * K;
            grads[i].input_grad_bn = {input_grad, N, 1};
            grads[i].weight_grad_nk = {weight_grad, K, 1};
            grads[i].begin();
        }
        for (int64_t b = 0; b < B || b == 0; b += PACK)
            for (int64_t i = 0; i < together; i++) grads[i].add_rows(b);
        for (int64_t i = 0; i < together; i++) grads[i].end();
    }
}

constexpr mlayers_body BY_SQUARES_SEGMENTS[] = MLAYERS_BODIES(by_squares_segments);

}  // namespace
}  // namespace mlayers
#endif
