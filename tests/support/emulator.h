// SPDX-License-Identifier: Apache-2.0
//
// Enough of CUDA C++ to run kernels on the CPU, slowly and on purpose: emulator.py puts this header
// before the text of a .cu file and compiles both with g++.
//
// Blocks run one after the other on one thread of the system. Each CUDA thread is a fiber, with a
// stack of its own, and runs alone until it meets a barrier: where a barrier is missing, a thread
// reads what its neighbour has not written yet. Warps run as far as they can, one after the other:
//
//   a block        every warp in turn; all threads are at __syncthreads: open it, go round again
//   a warp         every lane in turn; lanes of a mask are at a shuffle: open it, go round again
//   a lane         until it has finished, or waits at __syncthreads, or at a shuffle or __syncwarp
//
// Stricter than a device: what is undefined there is an error here or reads as NaN, so that it
// shows. Errors: a barrier that some threads never reach, those that have returned among them; a
// lane outside its own mask; a misaligned vector; an index outside an array whose size is known.
// All ones, so NaN: shared memory that nobody has written (but for __shared__ arrays of templates,
// which g++ lets no header wipe); the value of a lane that takes no part.
//
// Not here: half types, textures, clusters, atomics but atomicAdd, a loop that waits for others,
// headers that a kernel includes, more than 48 KiB of dynamic shared memory.
#ifndef MLAYERS_EMULATOR_H
#define MLAYERS_EMULATOR_H
#define MLAYERS_EMULATED 1

#include <math.h>
#include <stdlib.h>

#include "emulator_threads.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __constant__ static
// One block runs at a time: its shared memory is a section of the library, wiped as a whole.
#define __shared__ static __attribute__((section("mlayers_shared")))
// Stands for `extern __shared__ type name[]`, which has no meaning outside CUDA.
#define DYNAMIC_SHARED(type, name) type* const name = (type*)emulator::dynamic_shared

#define MLAYERS_VECTORS(type, name, bytes)                                                     \
    struct alignas(2 * bytes) name##2 { type x, y; };                                          \
    struct alignas(4 * bytes > 16 ? 16 : 4 * bytes) name##4 { type x, y, z, w; };              \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                    \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
MLAYERS_VECTORS(unsigned short, ushort, 2)
MLAYERS_VECTORS(int, int, 4)
MLAYERS_VECTORS(unsigned, uint, 4)
MLAYERS_VECTORS(float, float, 4)
MLAYERS_VECTORS(double, double, 8)

typedef uint3 dim3;

// --- barriers and shuffles ---
//
// The last parameter is never given: it is the line of the call, for messages.

static inline void __syncthreads(int line = __builtin_LINE()) {
    emulator::wait(emulator::AT_BLOCK_BARRIER, line);
}

static inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) {
    emulator::meet(mask, 0, 0, line);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
    const int first = emulator::lane() & ~(width - 1);
    return emulator::exchange(mask, value, first | (source & (width - 1)), width, line);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 int line = __builtin_LINE()) {
    const int lane = emulator::lane(), before = lane & (width - 1);
    const int source = delta <= (unsigned)before ? lane - (int)delta : lane;
    return emulator::exchange(mask, value, source, width, line);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   int line = __builtin_LINE()) {
    const int lane = emulator::lane(), after = width - 1 - (lane & (width - 1));
    const int source = after >= 0 && delta <= (unsigned)after ? lane + (int)delta : lane;
    return emulator::exchange(mask, value, source, width, line);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, int line = __builtin_LINE()) {
    const int lane = emulator::lane(), other = (lane ^ bits) & 31;
    const int source = other <= (lane | (width - 1)) ? other : lane;
    return emulator::exchange(mask, value, source, width, line);
}

static inline unsigned __ballot_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
    return emulator::meet(mask, vote != 0, 0, line).votes;
}

static inline int __any_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
    return emulator::meet(mask, vote != 0, 0, line).votes != 0;
}

static inline int __all_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
    return emulator::meet(mask, vote == 0, 0, line).votes == 0;
}

static inline void __threadfence() {}
static inline void __threadfence_block() {}

// --- memory and arithmetic ---

template <class T>
T __ldg(const T* address) {
    return *address;
}

template <class T>
T atomicAdd(T* address, std::common_type_t<T> value) {  // nobody else runs
    const T before = *address;
    *address = before + value;
    return before;
}

// As in CUDA, of numbers of two types; and of a number and a NaN the number.
template <class A, class B>
std::common_type_t<A, B> min(A a, B b) {
    if constexpr (std::is_floating_point_v<std::common_type_t<A, B>>) return std::fmin(a, b);
    return (std::common_type_t<A, B>)a < (std::common_type_t<A, B>)b ? a : b;
}

template <class A, class B>
std::common_type_t<A, B> max(A a, B b) {
    if constexpr (std::is_floating_point_v<std::common_type_t<A, B>>) return std::fmax(a, b);
    return (std::common_type_t<A, B>)a > (std::common_type_t<A, B>)b ? a : b;
}

template <class To, class From>
static To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline int __float_as_int(float x) { return same_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return same_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }

// Macros, since a C library may have functions of these names for itself.
#define rsqrtf(x) (1.0f / sqrtf(x))
#define rsqrt(x) (1.0 / sqrt(x))
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __fdividef(x, y) ((x) / (y))
#define __frcp_rn(x) (1.0f / (x))
#define __fmaf_rn(x, y, z) fmaf(x, y, z)

// --- launches ---

namespace emulator {

template <class... P, size_t... I>
void call(void (*function)(P...), void** params, std::index_sequence<I...>) {
    static_assert(((std::is_scalar_v<P> && sizeof(P) == 8) && ...),
                  "a parameter of a kernel is not a pointer, a long long or a double");
    function(*static_cast<P*>(params[I])...);
}

template <class... P>
void call(void (*function)(P...), void** params) {
    call(function, params, std::index_sequence_for<P...>());
}

template <class... P>
constexpr int parameters_of(void (*)(P...)) {
    return sizeof...(P);
}

// What a driver refuses, or nullptr.
static const char* refusal(unsigned shared_bytes, void** params, void** extra) {
    const unsigned long long size = 1ull * blockDim.x * blockDim.y * blockDim.z;
    if (!gridDim.x || !gridDim.y || !gridDim.z) return "a grid of no blocks";
    if (!size) return "a block of no threads";
    if (gridDim.x > 0x7fffffff || gridDim.y > 65535 || gridDim.z > 65535)
        return "more blocks than 2^31 - 1 in x or 65535 in y or z";
    if (blockDim.x > MAX_THREADS || blockDim.y > MAX_THREADS || blockDim.z > 64 ||
        size > (unsigned long long)kernel->max_threads)
        return "more threads than a block may have";
    if (shared_bytes > MAX_SHARED) return "more than 48 KiB of dynamic shared memory";
    if (extra || (kernel->parameters && !params)) return "no parameters in an array of pointers";
    return nullptr;
}

static int launch_alone(unsigned shared_bytes, void** params, void** extra) {
    failure = 0;
    arguments = params;
    blockIdx = {0, 0, 0};
    if (const char* reason = refusal(shared_bytes, params, extra))
        return fail(INVALID_VALUE, "%s", reason);
    if (!session->stacks) session->stacks = (char*)aligned_alloc(4096, (MAX_THREADS + 1) * STACK);
    if (!session->stacks) return fail(OUT_OF_MEMORY, "no memory for %d stacks", MAX_THREADS);
    count = blockDim.x * blockDim.y * blockDim.z;
    dice = session->seed;
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
                run_block(shared_bytes);
                if (failure) return failure;
            }
    return 0;
}

static int launch(const Kernel& launched, uint3 grid, uint3 block, unsigned shared_bytes,
                  void** params, void** extra) {
    pthread_mutex_lock(&session->lock);
    kernel = &launched;
    gridDim = grid;
    blockDim = block;
    const int code = launch_alone(shared_bytes, params, extra);
    pthread_mutex_unlock(&session->lock);
    return code;
}

}  // namespace emulator

#define MLAYERS_EXPORT extern "C" __attribute__((visibility("default")))

// The function that plays a CUfunction: it is called as cuLaunchKernel is, without the first one.
#define MLAYERS_EMULATED_KERNEL(name, max_threads)                                               \
    static void mlayers_call_##name(void** params) { emulator::call(name, params); }             \
    MLAYERS_EXPORT int mlayers_emulated_##name(unsigned gx, unsigned gy, unsigned gz, unsigned bx, \
                                               unsigned by, unsigned bz, unsigned shared_bytes,  \
                                               void*, void** params, void** extra) {             \
        static const emulator::Kernel kernel = {                                                 \
            #name, mlayers_call_##name, emulator::parameters_of(name), max_threads};             \
        return emulator::launch(kernel, {gx, gy, gz}, {bx, by, bz}, shared_bytes, params, extra); \
    }

MLAYERS_EXPORT emulator::Session* mlayers_session() { return emulator::session; }
MLAYERS_EXPORT void mlayers_join(emulator::Session* session) { emulator::session = session; }

// g++ -fsanitize=alignment,bounds calls these, with what begins with a place in the source.
namespace emulator {
struct Place {
    const char* file;
    unsigned line, column;
};
}  // namespace emulator

extern "C" void __ubsan_handle_type_mismatch_v1(emulator::Place* place, void*) {
    emulator::fail(emulator::MISALIGNED, "a misaligned address, line %u", place->line);
    emulator::wait(emulator::FINISHED, place->line);
}

extern "C" void __ubsan_handle_out_of_bounds(emulator::Place* place, void*) {
    emulator::fail(emulator::LAUNCH_FAILED, "an index outside its array, line %u", place->line);
    emulator::wait(emulator::FINISHED, place->line);
}

#endif
