// SPDX-License-Identifier: Apache-2.0
//
// What every X.cu begins with. The loader (__init__.py, `source`) puts before it, as macros, the
// dtype and the sizes that are compiled in.
//
//     scalar   what the arrays hold
//     real     what is computed in: float, for half types too
//     i64      sizes and offsets in elements: an array may hold more than 2^31
//
// Each parameter of a kernel is 8 bytes wide: a pointer, a long long or a double. Arrays are in C
// order and begin on 16 bytes. No header is included: the CUDA toolkit need not be installed.

typedef long long i64;

#ifndef MLAYERS_EMULATED  // the emulator of tests/support has its own
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

// --- numbers ---

#if defined(DTYPE_float32)
typedef float scalar;
typedef float real;
__device__ __forceinline__ real widen(scalar x) { return x; }
__device__ __forceinline__ scalar narrow(real x) { return x; }

#elif defined(DTYPE_float64)
typedef double scalar;
typedef double real;
__device__ __forceinline__ real widen(scalar x) { return x; }
__device__ __forceinline__ scalar narrow(real x) { return x; }

#elif defined(DTYPE_float16)
typedef unsigned short scalar;
typedef float real;
#ifdef MLAYERS_EMULATED
union half_bits { _Float16 number; scalar bits; };
__device__ __forceinline__ real widen(scalar x) { return half_bits{.bits = x}.number; }
__device__ __forceinline__ scalar narrow(real x) { return half_bits{(_Float16)x}.bits; }
#else
__device__ __forceinline__ real widen(scalar x) {
    real wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x));
    return wide;
}
__device__ __forceinline__ scalar narrow(real x) {
    scalar bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#endif

#elif defined(DTYPE_bfloat16)
typedef unsigned short scalar;
typedef float real;
union float_bits { unsigned bits; float number; };  // a bfloat16 is the upper half of a float
__device__ __forceinline__ real widen(scalar x) { return float_bits{(unsigned)x << 16}.number; }
__device__ __forceinline__ scalar narrow(real x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    scalar bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#else
    float_bits wide;
    wide.number = x;
    if (x != x) return (wide.bits >> 16) | 0x40;  // a NaN stays one, whichever bits are cut off
    return (wide.bits + 0x7fff + (wide.bits >> 16 & 1)) >> 16;  // to the nearest, ties to even
#endif
}
#endif

// --- memory: V neighbours at once, of 16 bytes at most, V dividing the offset ---

template <int V>
struct alignas(V * sizeof(scalar)) pack {
    scalar at[V];
};

// As they lie in memory: a thread that takes many before it uses one waits once.
template <int V>
__device__ __forceinline__ pack<V> take(const scalar* from) {
    return *reinterpret_cast<const pack<V>*>(from);
}

template <int V>
__device__ __forceinline__ void widen(const pack<V>& from, real (&to)[V]) {
#pragma unroll
    for (int v = 0; v < V; v++) to[v] = widen(from.at[v]);
}

template <int V>
__device__ __forceinline__ void load(const scalar* from, real (&to)[V]) {
    widen(take<V>(from), to);
}

// PASSES: the results are many, and what is read meanwhile is to stay in the L2 cache.
template <bool PASSES, typename T>
__device__ __forceinline__ void put(scalar* to, const T& together) {
#ifndef MLAYERS_EMULATED
    if constexpr (PASSES && sizeof(T) == 16)
        return __stcs(reinterpret_cast<uint4*>(to), reinterpret_cast<const uint4&>(together));
#endif
    *reinterpret_cast<T*>(to) = together;
}

template <int V, bool PASSES = false>
__device__ __forceinline__ void store(scalar* to, const real* from) {
    if constexpr (sizeof(scalar) == 2 && V > 1) {  // by twos, or 16 bytes are written in halves
        struct alignas(2 * V) { unsigned at[V / 2]; } together;
#pragma unroll
        for (int v = 0; v < V; v += 2)
            together.at[v / 2] = (unsigned)narrow(from[v]) | (unsigned)narrow(from[v + 1]) << 16;
        put<PASSES>(to, together);
    } else {
        pack<V> together;
#pragma unroll
        for (int v = 0; v < V; v++) together.at[v] = narrow(from[v]);
        put<PASSES>(to, together);
    }
}

// For ops element by element: calls `function(offset, length)` for this thread's 16 bytes, and for
// the elements that are left over at the end, one by one. `decltype(length)::value` is how many.
template <int V>
struct length_of {
    static constexpr int value = V;
};

template <typename Function>
__device__ __forceinline__ void for_each_vector(i64 size, Function function) {
    constexpr int V = 16 / sizeof(scalar);
    const i64 i = (blockIdx.x * (i64)blockDim.x + threadIdx.x) * V;
    if (i + V <= size) {
        function(i, length_of<V>());
    } else {
        for (i64 j = i; j < size; j++) function(j, length_of<1>());
    }
}

struct alignas(16) quad {  // of numbers in shared memory
    real at[4];
};

__device__ __forceinline__ quad load_quad(const real* from) {
    return *reinterpret_cast<const quad*>(from);
}

// --- integers ---

__device__ __forceinline__ int at_most(int x, int limit) { return x < limit ? x : limit; }

__device__ __forceinline__ int parts(int whole, int part) { return (whole + part - 1) / part; }

// The quotient of numbers that are not negative: a division of 64 bits takes some 100 instructions.
__device__ __forceinline__ i64 quotient(i64 a, i64 b) {
    return (a | b) >> 32 ? a / b : (unsigned)a / (unsigned)b;
}
