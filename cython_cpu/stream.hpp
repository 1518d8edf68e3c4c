/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that is larger than the caches: lines that are asked for before their turn, and stores that
 * bypass the caches, for what is not to be read soon. (Other stores first read their line.)
 */
#ifndef MLAYERS_STREAM_HPP
#define MLAYERS_STREAM_HPP

#include "vector.hpp"

namespace mlayers {
namespace {

/* Asks for the line that the loop will come to soon; i counts the vectors from the start of one.
 * Else a store to an output beyond the second cache waits for the line that it overwrites, and an
 * upstream gradient beyond all caches comes slower. On a Xeon, float32, D 16, two threads: forward,
 * 1024 rows of 10 by 12 fields, 259 to 215 us, 512 rows 117 to 88; gradient, 8192 rows of 16 by 16, 4.6
 * to 3.4 ms; within the second cache the same. 12 to 96 lines ahead take the same time. */
template <int W, bool TO_STORE, typename T>
MLAYERS_INLINE void ask_ahead(const T *at, int i) {
    constexpr int LINE = 64, AHEAD = 48 * LINE, VECTOR = W * sizeof(T); /* bytes */
    if (VECTOR >= LINE || i % (LINE / VECTOR) == 0)
        __builtin_prefetch(reinterpret_cast<const char *>(at) + AHEAD, TO_STORE);
}

/* Whether loops over whole vectors that lie one after the other ask. On an AMD EPYC it makes them slower:
 * forward, 1024 rows of 10 by 12 fields, one thread, 95 us without and 109 with it; gradient, 8192 rows
 * of 16 by 16, two threads, 5.3 and 5.6 ms. */
#if defined(__x86_64__)
const bool EVEN_LOOPS_ASK = (__builtin_cpu_init(), !__builtin_cpu_is("amd"));
#else
constexpr bool EVEN_LOOPS_ASK = true;
#endif

/* Vectors that lie one after the other in memory, stored in the ordinary way; i as in ask_ahead. */
template <typename T, int W, bool ASKS>
struct Stores {
    T *to;

    MLAYERS_INLINE Stores(T *memory, T *) : to(memory) {}
    MLAYERS_INLINE void put(Vector<Computed<T>, W> x, int i) {
        if constexpr (ASKS) ask_ahead<W, true>(to, i);
        store<W>(to, x);
        to += W;
    }
    MLAYERS_INLINE void end() {}
};

/* Copies bytes past the caches. */
MLAYERS_INLINE void stream(void *to, const void *from, int64_t bytes) {
    char *target = static_cast<char *>(to);
    const char *source = static_cast<const char *>(from);
#if defined(__x86_64__)
    int64_t head = -reinterpret_cast<uintptr_t>(target) & 63;
    if (head > bytes) head = bytes;
    memcpy(target, source, head);
    int64_t i = head;
    for (; i + 64 <= bytes; i += 64) {
#if defined(__AVX512F__)
        _mm512_stream_si512((__m512i *)(target + i), _mm512_loadu_si512(source + i));
#else
        for (int j = 0; j < 64; j += 16)
            _mm_stream_si128((__m128i *)(target + i + j),
                             _mm_loadu_si128((const __m128i *)(source + i + j)));
#endif
    }
    memcpy(target + i, source + i, bytes - i);
#else
    memcpy(target, source, bytes);
#endif
}

/* After the last of them: other threads see what was stored once they see anything later. */
MLAYERS_INLINE void stream_done() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

#if defined(__AVX512F__)
MLAYERS_INLINE __m512 pick(__m512 a, __m512 b, Vector<int32_t, 16> lanes) {
    return _mm512_permutex2var_ps(a, (__m512i)lanes, b);
}
MLAYERS_INLINE __m512d pick(__m512d a, __m512d b, Vector<int64_t, 8> lanes) {
    return _mm512_permutex2var_pd(a, (__m512i)lanes, b);
}

/* Vectors that lie one after the other in memory, each stored when it is made. The memory begins at any
 * number, and only whole lines bypass the caches: each is the end of one vector and the beginning of
 * the next. `stream` takes vectors out of the first cache, which is felt where memory is fast: with two
 * threads of an AMD EPYC, 8192 rows of 16 by 16 fields, D 16, float32, it took 5.2 ms and this 5.0 where
 * a fill took 4.9, and 3.4 and 2.7 in the minutes in which a fill took 2.6. */
template <typename T, int W, bool>
class Lines {
    static constexpr int LINE = 64; /* bytes */
    static_assert(W * sizeof(T) == LINE, "a vector must be as long as a line");
    using Lane = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

    T *memory, *room;
    T *to, *next;          /* where lines go; the first, begun before the memory, goes to the room */
    int64_t before;        /* numbers in memory before a line begins */
    Vector<Lane, W> lanes; /* of a line in two vectors */
    Vector<T, W> last;

  public:
    /* There must be room for a line, which begins where a line does. (It is not a member, and `put` has
     * no branch, so that compilers keep all of this, and what is put, in registers.) */
    MLAYERS_INLINE Lines(T *memory, T *room)
        : memory(memory), room(room), to(room),
          before((-reinterpret_cast<uintptr_t>(memory) & (LINE - 1)) / sizeof(T)), last{} {
        next = memory + before;
        for (int i = 0; i < W; i++) lanes[i] = before + i;
    }

    MLAYERS_INLINE void put(Vector<T, W> x, int) {
        _mm512_stream_si512((__m512i *)to, (__m512i)pick(last, x, lanes));
        last = x;
        to = next;
        next += W;
    }

    /* After the last vector. */
    MLAYERS_INLINE void end() {
        stream_done();
        if (to == room) return;
        memcpy(memory, room + W - before, before * sizeof(T));
        store<W>(room, last);
        memcpy(to, room + before, (W - before) * sizeof(T));
    }
};
#endif

}  // namespace
}  // namespace mlayers
#endif
