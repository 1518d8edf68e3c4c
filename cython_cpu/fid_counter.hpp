/* SPDX-License-Identifier: Apache-2.0
 *
 * The counter's loops: out = min(counter + step, threshold), and the rule that is its gradient.
 */
#ifndef MLAYERS_FID_COUNTER_HPP
#define MLAYERS_FID_COUNTER_HPP

#include "bodies.hpp"

namespace mlayers {
namespace {

template <typename T>
struct Count {
    const T *counter;
    T *out;
    Computed<T> threshold, step;

    template <int W, int N>
    MLAYERS_INLINE void run(int64_t i) const {
        auto value = load<W>(counter + i) + step;
        store<W>(out + i, value > threshold ? all<W>(threshold) : value); /* NaN stays NaN */
    }
};

template <typename T>
struct CountGrad {
    const T *counter;
    T *counter_grad;
    Computed<T> threshold, step;

    template <int W, int N>
    MLAYERS_INLINE void run(int64_t i) const {
        using C = Computed<T>;
        auto below = load<W>(counter + i) < threshold;
        store<W>(counter_grad + i, below ? all<W>(-step) : all<W>(C(0)));
    }
};

/* A row is an element. */
template <typename T>
inline void count_rows(const mlayers_call *call, int64_t first, int64_t last) {
    using C = Computed<T>;
    Count<T> count{input<T>(call, 0), output<T>(call, 0), C(call->floats[0]), C(call->floats[1])};
    cover<LANES<T>, 1>(first, last, count);
}

template <typename T>
inline void count_grad_rows(const mlayers_call *call, int64_t first, int64_t last) {
    using C = Computed<T>;
    CountGrad<T> count{input<T>(call, 0), output<T>(call, 0), C(call->floats[0]),
                       C(call->floats[1])};
    cover<LANES<T>, 1>(first, last, count);
}

constexpr mlayers_body COUNT_ROWS[] = MLAYERS_BODIES(count_rows);
constexpr mlayers_body COUNT_GRAD_ROWS[] = MLAYERS_BODIES(count_grad_rows);

}  // namespace
}  // namespace mlayers
#endif
