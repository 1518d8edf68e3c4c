/* SPDX-License-Identifier: Apache-2.0
 *
 * Vectors of numbers, of whatever width the instructions this file is compiled for have.
 *
 * Kernels are written once, on these, and compiled for each instruction set (_build.py); at run time
 * one is chosen. They are GCC's and Clang's vector extensions, so `a * b + c` on vectors is ordinary
 * C++, and the same text becomes SSE2, AVX2, AVX-512 or NEON. What the extensions lack is here:
 * loading and storing numbers of any type, half types as float; exp.
 *
 * All is in an unnamed namespace: two instruction sets must never share a function.
 */
#ifndef MLAYERS_VECTOR_HPP
#define MLAYERS_VECTOR_HPP

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define MLAYERS_INLINE inline __attribute__((always_inline))

namespace mlayers {

struct float16 {
    uint16_t bits;
};
struct bfloat16 {
    uint16_t bits;
};

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16; /* SSE2, NEON */
#endif

/* What numbers of type T are computed in: half types in float. */
template <typename T>
struct computed {
    using type = T;
};
template <>
struct computed<float16> {
    using type = float;
};
template <>
struct computed<bfloat16> {
    using type = float;
};
template <typename T>
using Computed = typename computed<T>::type;

/* W numbers of type C in a register. */
template <typename C, int W>
struct vector_of {
    typedef C type __attribute__((vector_size(W * sizeof(C))));
};
template <typename C>
struct vector_of<C, 1> {
    using type = C;
};
template <typename C, int W>
using Vector = typename vector_of<C, W>::type;

template <typename T>
constexpr int LANES = VECTOR_BYTES / sizeof(Computed<T>);

/* W times the same number. */
template <int W, typename C>
MLAYERS_INLINE Vector<C, W> all(C x) {
    if constexpr (W == 1)
        return x;
    else
        return x - Vector<C, W>{};
}

/* Lane by lane another type of the same meaning, or of the same bits. */
template <typename To, int W, typename From>
MLAYERS_INLINE Vector<To, W> convert_lanes(From x) {
    if constexpr (W == 1)
        return static_cast<To>(x);
    else
        return __builtin_convertvector(x, Vector<To, W>);
}

template <typename To, int W, typename From>
MLAYERS_INLINE Vector<To, W> from_bits(From bits) {
    Vector<To, W> x;
    static_assert(sizeof x == sizeof bits, "as many bits");
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* --- half types as float, and back, rounded to nearest even --- */

template <int W>
MLAYERS_INLINE Vector<float, W> widen(Vector<uint32_t, W> bits, bfloat16) {
    return from_bits<float, W>(bits << 16);
}

template <int W>
MLAYERS_INLINE Vector<uint32_t, W> narrow(Vector<float, W> x, bfloat16) {
    Vector<uint32_t, W> bits = from_bits<uint32_t, W>(x);
    Vector<uint32_t, W> rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded; /* NaN */
}

template <int W>
MLAYERS_INLINE Vector<float, W> widen(Vector<uint32_t, W> bits, float16) {
    Vector<uint32_t, W> sign = (bits & 0x8000u) << 16, rest = (bits & 0x7fffu) << 13;
    /* A subnormal half counts units of the last bit that floats from 0.5 on have: no operand is a
     * subnormal float, which XLA and TensorFlow have the processor take for 0. */
    Vector<float, W> units = from_bits<float, W>((bits & 0x3ffu) | 0x3f000000u) - 0.5f;
    Vector<uint32_t, W> tiny = from_bits<uint32_t, W>(units);
    Vector<uint32_t, W> finite = rest < 0x00800000u ? tiny : rest + 0x38000000u;
    return from_bits<float, W>(sign | (rest >= 0x0f800000u ? rest | 0x7f800000u : finite));
}

template <int W>
MLAYERS_INLINE Vector<uint32_t, W> narrow(Vector<float, W> x, float16) {
    Vector<uint32_t, W> bits = from_bits<uint32_t, W>(x), sign = (bits >> 16) & 0x8000u;
    Vector<uint32_t, W> size = bits & 0x7fffffffu;
    Vector<uint32_t, W> normal = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
    /* Adding 0.5 puts the units of a subnormal half into the last bits of a float. */
    Vector<uint32_t, W> tiny = from_bits<uint32_t, W>(from_bits<float, W>(size) + 0.5f) - 0x3f000000u;
    Vector<uint32_t, W> half = size < 0x38800000u ? tiny : normal;
    Vector<uint32_t, W> special = size > 0x7f800000u ? all<W>(0x7e00u) : all<W>(0x7c00u);
    return sign | (size >= 0x477ff000u ? special : half);
}

/* --- loading and storing W numbers from any address --- */

template <int W, typename T>
struct memory { /* float, double */
    static MLAYERS_INLINE Vector<T, W> load(const T *from) {
        Vector<T, W> x;
        memcpy(&x, from, sizeof x);
        return x;
    }
    static MLAYERS_INLINE void store(T *to, Vector<T, W> x) { memcpy(to, &x, sizeof x); }
};

template <int W, typename T>
struct half_memory {
    static MLAYERS_INLINE Vector<float, W> load(const T *from) {
        if constexpr (W == 1) {
            return widen<1>(from->bits, T());
        } else {
            Vector<uint16_t, W> bits;
            memcpy(&bits, from, sizeof bits);
            return widen<W>(__builtin_convertvector(bits, Vector<uint32_t, W>), T());
        }
    }
    static MLAYERS_INLINE void store(T *to, Vector<float, W> x) {
        if constexpr (W == 1) {
            to->bits = static_cast<uint16_t>(narrow<1>(x, T()));
        } else {
            auto bits = __builtin_convertvector(narrow<W>(x, T()), Vector<uint16_t, W>);
            memcpy(to, &bits, sizeof bits);
        }
    }
};

template <int W>
struct memory<W, bfloat16> : half_memory<W, bfloat16> {};
template <int W>
struct memory<W, float16> : half_memory<W, float16> {};

#if defined(__F16C__)
template <>
struct memory<8, float16> {
    static MLAYERS_INLINE Vector<float, 8> load(const float16 *from) {
        return (Vector<float, 8>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
    }
    static MLAYERS_INLINE void store(float16 *to, Vector<float, 8> x) {
        _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
    }
};
#endif
#if defined(__AVX512F__)
template <>
struct memory<16, float16> {
    static MLAYERS_INLINE Vector<float, 16> load(const float16 *from) {
        return (Vector<float, 16>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
    }
    static MLAYERS_INLINE void store(float16 *to, Vector<float, 16> x) {
        _mm256_storeu_si256((__m256i *)to,
                            _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
    }
};
#endif

template <int W, typename T>
MLAYERS_INLINE Vector<Computed<T>, W> load(const T *from) {
    return memory<W, T>::load(from);
}

template <int W, typename T>
MLAYERS_INLINE void store(T *to, Vector<Computed<T>, W> x) {
    memory<W, T>::store(to, x);
}

/* What lies N lanes apart, added (N = 1: all lanes): in halves, which the processor does at once. */
template <typename C, int N, int W>
MLAYERS_INLINE Vector<C, N> fold(Vector<C, W> x) {
    if constexpr (N == W) {
        return x;
    } else {
        Vector<C, W / 2> halves[2];
        memcpy(halves, &x, sizeof x);
        return fold<C, N, W / 2>(halves[0] + halves[1]);
    }
}

/* Calls f.run<W, N>(i), each time for N vectors of W numbers, until they cover i = first to last. */
template <int W, int N, typename F>
MLAYERS_INLINE void cover(int64_t first, int64_t last, const F &f) {
    for (; first + W * N <= last; first += W * N) f.template run<W, N>(first);
    if constexpr (N > 1)
        cover<W, N / 2>(first, last, f);
    else if constexpr (W > 1)
        cover<W / 2, 1>(first, last, f);
}

/* Numbers of one type as another, through what they are computed in. */
template <typename From, typename To>
struct Convert {
    const From *from;
    To *to;

    template <int W, int N>
    MLAYERS_INLINE void run(int64_t i) const {
        store<W>(to + i, convert_lanes<Computed<To>, W>(load<W>(from + i)));
    }
};

template <typename From, typename To>
inline void convert(const From *from, To *to, int64_t n) {
    cover<LANES<To>, 1>(0, n, Convert<From, To>{from, to});
}

/* Lanes of a, counted from 0, and of b, counted on. */
template <typename C, int... lane>
MLAYERS_INLINE Vector<C, 4> shuffled(Vector<C, 4> a, Vector<C, 4> b) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(a, b, lane...);
#else
    using Int = typename std::conditional<sizeof(C) == 4, int32_t, int64_t>::type;
    return __builtin_shuffle(a, b, Vector<Int, 4>{lane...});
#endif
}

/* N numbers, and the same again; `lane` counts from 0 to 2 N. */
template <typename C, int N, int... lane>
MLAYERS_INLINE Vector<C, 2 * N> doubled(Vector<C, N> x, std::integer_sequence<int, lane...>) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(x, x, lane...);
#else
    Vector<C, 2 * N> twice;
    for (int i = 0; i < 2; i++) memcpy(reinterpret_cast<char *>(&twice) + i * sizeof x, &x, sizeof x);
    return twice;
#endif
}

/* Four vectors of four numbers, as a matrix, turned round. */
template <typename C>
MLAYERS_INLINE void transpose(Vector<C, 4> (&x)[4]) {
    auto low01 = shuffled<C, 0, 4, 1, 5>(x[0], x[1]), low23 = shuffled<C, 0, 4, 1, 5>(x[2], x[3]);
    auto high01 = shuffled<C, 2, 6, 3, 7>(x[0], x[1]), high23 = shuffled<C, 2, 6, 3, 7>(x[2], x[3]);
    x[0] = shuffled<C, 0, 1, 4, 5>(low01, low23);
    x[1] = shuffled<C, 2, 3, 6, 7>(low01, low23);
    x[2] = shuffled<C, 0, 1, 4, 5>(high01, high23);
    x[3] = shuffled<C, 2, 3, 6, 7>(high01, high23);
}

}  // namespace
}  // namespace mlayers
#endif
