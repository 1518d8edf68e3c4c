/* SPDX-License-Identifier: Apache-2.0
 *
 * The LHUC gate's loops: out = hidden * 2 * sigmoid(logits), and its gradient, element by element.
 */
#ifndef MLAYERS_LHUC_GATE_HPP
#define MLAYERS_LHUC_GATE_HPP

#include "bodies.hpp"

namespace mlayers {
namespace {

template <typename C>
constexpr C one_over_factorial(int n) {
    return n < 2 ? C(1) : one_over_factorial<C>(n - 1) / C(n);
}

/* exp(x) for x <= 0, to about one unit in the last place; NaN stays NaN.
 *
 * x = n * ln 2 + r with a whole n and |r| <= ln(2) / 2: exp(x) = 2^n * exp(r), and exp(r) is its
 * Taylor series, as long as the type's precision wants. 2^n is made in two steps, because the
 * exponent of a subnormal result does not fit into one. */
template <typename C, int W>
MLAYERS_INLINE Vector<C, W> exp_of_negative(Vector<C, W> x) {
    constexpr bool is_float = sizeof(C) == 4;
    using Int = typename std::conditional<is_float, int32_t, int64_t>::type;
    constexpr int TERMS = is_float ? 8 : 14, MANTISSA = is_float ? 23 : 52;
    constexpr Int BIAS = is_float ? 127 : 1023;
    constexpr C LOWEST = is_float ? -104 : -746; /* below it the result is 0 */
    /* ln 2 in two parts, the first with so few digits that n times it is exact */
    constexpr C LN2_HIGH = is_float ? 0x1.62e4p-1 : 0x1.62e42feep-1;
    constexpr C LN2_LOW = is_float ? 0x1.7f7d1cp-20 : 0x1.a39ef35793c76p-33;
    using V = Vector<C, W>;

    x = x < LOWEST ? all<W>(LOWEST) : x;
    auto n = convert_lanes<Int, W>(x * C(1.4426950408889634) - C(0.5)); /* towards 0, so nearest */
    V n_real = convert_lanes<C, W>(n);
    V r = x - n_real * LN2_HIGH - n_real * LN2_LOW;
    static constexpr C last = one_over_factorial<C>(TERMS - 1);
    V series = all<W>(last);
    for (int i = TERMS - 2; i >= 0; i--) series = series * r + one_over_factorial<C>(i);
    auto power = [](auto exponent) { return from_bits<C, W>((exponent + BIAS) << MANTISSA); };
    auto half = n >> 1;
    return series * power(half) * power(n - half);
}

/* 1 / (1 + exp(-x)), without overflow: exp never sees a positive number. */
template <typename C, int W>
MLAYERS_INLINE Vector<C, W> sigmoid(Vector<C, W> x) {
    auto negative = x < C(0);
    Vector<C, W> decay = exp_of_negative<C, W>(negative ? x : -x);
    return (negative ? decay : all<W>(C(1))) / (C(1) + decay);
}

template <typename T>
struct Gate {
    const T *hidden, *logits;
    T *out;

    template <int W, int N>
    MLAYERS_INLINE void run(int64_t i) const {
        using C = Computed<T>;
        store<W>(out + i, C(2) * load<W>(hidden + i) * sigmoid<C, W>(load<W>(logits + i)));
    }
};

template <typename T>
struct GateGrad {
    const T *grad, *hidden, *logits;
    T *hidden_grad, *logits_grad;

    template <int W, int N>
    MLAYERS_INLINE void run(int64_t i) const {
        using C = Computed<T>;
        auto x = load<W>(logits + i);
        auto negative = x < C(0);
        auto decay = exp_of_negative<C, W>(negative ? x : -x);
        auto larger = C(1) / (C(1) + decay), smaller = decay * larger;
        auto gated = C(2) * load<W>(grad + i) * (negative ? smaller : larger);
        auto unit = load<W>(hidden + i);
        store<W>(hidden_grad + i, gated);
        /* 1 - sigmoid, which taken as a difference would have lost its digits where that is near 1 */
        store<W>(logits_grad + i, gated * unit * (negative ? larger : smaller));
    }
};

/* A row is an element. */
template <typename T>
inline void gate_rows(const mlayers_call *call, int64_t first, int64_t last) {
    Gate<T> gate{input<T>(call, 0), input<T>(call, 1), output<T>(call, 0)};
    cover<LANES<T>, 1>(first, last, gate);
}

template <typename T>
inline void gate_grad_rows(const mlayers_call *call, int64_t first, int64_t last) {
    GateGrad<T> gate{input<T>(call, 0), input<T>(call, 1), input<T>(call, 2), output<T>(call, 0),
                     output<T>(call, 1)};
    cover<LANES<T>, 1>(first, last, gate);
}

constexpr mlayers_body GATE_ROWS[] = MLAYERS_BODIES(gate_rows);
constexpr mlayers_body GATE_GRAD_ROWS[] = MLAYERS_BODIES(gate_grad_rows);

}  // namespace
}  // namespace mlayers
#endif
