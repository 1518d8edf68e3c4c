/* SPDX-License-Identifier: Apache-2.0
 *
 * The counter's loops: out = min(counter + step, threshold), and the rule that is its gradient.
 */
#ifndef MLAYERS_FID_COUNTER_HPP
#define MLAYERS_FID_COUNTER_HPP

#include "vector.hpp"

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

template <typename T>
inline void count(const T *counter, T *out, double threshold, double step, int64_t first,
                  int64_t last) {
    using C = Computed<T>;
    cover<LANES<T>, 1>(first, last, Count<T>{counter, out, C(threshold), C(step)});
}

template <typename T>
inline void count_grad(const T *counter, T *counter_grad, double threshold, double step,
                       int64_t first, int64_t last) {
    using C = Computed<T>;
    cover<LANES<T>, 1>(first, last, CountGrad<T>{counter, counter_grad, C(threshold), C(step)});
}

}  // namespace
}  // namespace mlayers
#endif
