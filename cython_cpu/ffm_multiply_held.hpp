/* SPDX-License-Identifier: Apache-2.0
 *
 * ffm's multiply (ffm_multiply.hpp), whole rows of the batch, where right is small: it stays in
 * registers, in the gradient its sums too.
 */
#ifndef MLAYERS_FFM_MULTIPLY_HELD_HPP
#define MLAYERS_FFM_MULTIPLY_HELD_HPP

#include <utility>

#include "stream.hpp"

namespace mlayers {
namespace {

/* N numbers, as often as they fill W lanes. */
template <typename C, int N, int W>
MLAYERS_INLINE Vector<C, W> repeat(Vector<C, N> x) {
    if constexpr (N == W)
        return x;
    else if constexpr (N == 1)
        return all<W>(x);
    else
        return repeat<C, 2 * N, W>(doubled<C, N>(x, std::make_integer_sequence<int, 2 * N>()));
}

/* D numbers from memory, as often as they fill W lanes; D is a power of two, F at least, W at most. */
template <int F, int W, typename T>
MLAYERS_INLINE Vector<Computed<T>, W> load_repeated(const T *from, int64_t D) {
    if constexpr (F < W)
        if (D != F) return load_repeated<2 * F, W>(from, D);
    return repeat<Computed<T>, F, W>(load<F>(from));
}

/* The other way round: what lies D lanes apart, added. */
template <int F, int W, typename T>
MLAYERS_INLINE void store_folded(T *to, Vector<Computed<T>, W> x, int64_t D) {
    if constexpr (F < W)
        if (D != F) return store_folded<2 * F, W>(to, x, D);
    store<F>(to, fold<Computed<T>, F, W>(x));
}

/* Vectors of right: of 32 registers, or of 16. The gradient holds its sums, and beside them as many
 * vectors of right if there is room for both; else these come from the first cache. That, against sums
 * in memory, on an AMD EPYC: AVX-512, two threads, float32, D 16, 1024 rows of 10 by 16 fields, 250 to
 * 115 us, 8192 of 16 by 16, beyond the caches, 6.1 to 5.2 ms; AVX2, one thread, D 8, 1024 rows of 10 by 8
 * fields, 106 to 62 us. */
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int HELD = 16, HELD_BOTH = 12;
#else
constexpr int HELD = 8, HELD_BOTH = 6;
#endif

template <typename T, template <typename, int, bool> class Out = Stores>
struct MultiplyHeld {
    const T *left_bld, *right_brd;
    T *out_blrd;
    int64_t B, L, D;

    template <int W, int V, bool ASKS>
    __attribute__((noinline)) void run() const {
        const MultiplyHeld my = *this; /* or each store might have changed it */
        alignas(64) T room[W];
        Out<T, W, ASKS> out(my.out_blrd, room);
        Vector<Computed<T>, W> right[V];
        for (int64_t b = 0; b < my.B; b++) {
            for (int v = 0; v < V; v++) right[v] = load<W>(my.right_brd + (b * V + v) * W);
            for (int64_t bl = b * my.L; bl < (b + 1) * my.L; bl++) {
                auto left = load_repeated<1, W>(my.left_bld + bl * my.D, my.D);
                for (int v = 0; v < V; v++) out.put(left * right[v], v);
            }
        }
        out.end();
    }
};

/* Both results go to `Out`; to another than Stores only where a vector of left_grad is D long. */
template <typename T, template <typename, int, bool> class Out = Stores>
struct MultiplyGradHeld {
    const T *grad_blrd, *left_bld, *right_brd;
    T *left_grad_bld, *right_grad_brd;
    int64_t B, L, D;

    template <int W, int V, bool ASKS>
    __attribute__((noinline)) void run() const {
        using VectorW = Vector<Computed<T>, W>;
        constexpr bool BOTH = V <= HELD_BOTH;
        constexpr bool ORDINARY = std::is_same<Out<T, W, ASKS>, Stores<T, W, ASKS>>::value;
        const MultiplyGradHeld my = *this;
        VectorW right[BOTH ? V : 1], right_sum[V];
        alignas(64) T room[2][W];
        Out<T, W, ASKS> left_out(my.left_grad_bld, room[0]), right_out(my.right_grad_brd, room[1]);
        for (int64_t b = 0; b < my.B; b++) {
            const T *right_rd = my.right_brd + b * V * W;
            for (int v = 0; v < V; v++) {
                if constexpr (BOTH) right[v] = load<W>(right_rd + v * W);
                right_sum[v] = VectorW{};
            }
            for (int64_t bl = b * my.L; bl < (b + 1) * my.L; bl++) {
                VectorW left = load_repeated<1, W>(my.left_bld + bl * my.D, my.D), left_sum = {};
                for (int v = 0; v < V; v++) {
                    const T *at = my.grad_blrd + (bl * V + v) * W;
                    if constexpr (!BOTH && ASKS) ask_ahead<W, false>(at, v);
                    VectorW grad = load<W>(at);
                    if constexpr (BOTH)
                        left_sum += grad * right[v];
                    else
                        left_sum += grad * load<W>(right_rd + v * W);
                    right_sum[v] += grad * left;
                }
                if constexpr (ORDINARY)
                    store_folded<1, W>(my.left_grad_bld + bl * my.D, left_sum, my.D);
                else
                    left_out.put(left_sum, 0);
            }
            for (int v = 0; v < V; v++)
                if constexpr (ORDINARY)
                    store<W>(my.right_grad_brd + (b * V + v) * W, right_sum[v]);
                else
                    right_out.put(right_sum[v], v);
        }
        left_out.end();
        right_out.end();
    }
};

/* Calls f.run<W, V, EVEN_LOOPS_ASK>() where the n numbers of a row of right fill V vectors, MOST at
 * most, of the widest that they fill, of LEAST at least, and these stay in registers; else returns
 * false. With 1024 rows of 10 by 12 fields this takes, on AVX-512, 0.2, 0.2, 0.4, 0.5 and 0.9 of the
 * time of one field after the other for D = 1, 2, 4, 8 and 16; the gradient 0.1, 0.15, 0.3, 0.5 and
 * 0.75. (Each run is a function of its own, and asks always or never: of several in one, and where it
 * depends, GCC 12 keeps right or the sums in memory.) */
template <int MOST, int W, int LEAST = 4, int V = 1, typename F>
inline bool run_held(int64_t n, int64_t D, const F &f) {
    if (D > W || W % D != 0) return false;
    if (n == V * W) {
        EVEN_LOOPS_ASK ? f.template run<W, V, true>() : f.template run<W, V, false>();
        return true;
    }
    if constexpr (V < MOST)
        if (n % W == 0) return run_held<MOST, W, LEAST, V + 1>(n, D, f);
    if constexpr (W > LEAST)
        if (n % W != 0) return run_held<MOST, W / 2, LEAST>(n, D, f);
    return false;
}

}  // namespace
}  // namespace mlayers
#endif
