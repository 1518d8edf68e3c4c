/* SPDX-License-Identifier: Apache-2.0
 *
 * What a large output's memory wants. Included by _call.pyx alone.
 *
 * Memory the system has not given yet (a fresh output: JAX allocates one per call) costs a
 * page fault for each 4 KB, more than any arithmetic on it; in huge pages of 2 MB the same fill takes
 * a third of the time. Memory that is there is better stored past the caches where it, or what it is
 * made of, is larger than they are: an ordinary store first reads the line it is about to overwrite.
 * The system is asked which it is.
 */
#ifndef MLAYERS_MEMORY_H
#define MLAYERS_MEMORY_H

#include <stdint.h>
#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "call.h"

#define MLAYERS_LARGE ((int64_t)4 << 20)      /* below it huge pages gain nothing: as NumPy has it */
#define MLAYERS_HUGE_PAGE ((uintptr_t)2 << 20)
#define MLAYERS_MOST_CACHE ((int64_t)32 << 20)

/* What a process can keep in the last cache. A large one serves tens of cores: on 2 of them that see all
 * 260 MB of a Xeon's, a fill with the read that follows it takes 2.9 and 2.5 ms at 32 MB, ordinary and
 * past the caches, and 4.9 and 3.5, 7.3 and 4.6, 13.7 and 8.9 at 48, 64 and 128 MB. */
static int64_t mlayers_cache_size(void) {
    static int64_t size = 0;
    int64_t found = __atomic_load_n(&size, __ATOMIC_RELAXED);
    if (found == 0) {
#ifdef _SC_LEVEL3_CACHE_SIZE
        found = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
        if (found <= 0 || found > MLAYERS_MOST_CACHE) found = MLAYERS_MOST_CACHE;
        __atomic_store_n(&size, found, __ATOMIC_RELAXED);
    }
    return found;
}

/* Whether memory has been given. Where the system cannot be asked, it is taken to be. */
static int mlayers_is_there(const void *address) {
#ifdef __linux__
    unsigned char there = 1;
    uintptr_t page = (uintptr_t)address & ~(uintptr_t)(sysconf(_SC_PAGESIZE) - 1);
    if (mincore((void *)page, 1, &there) == 0) return there & 1;
#endif
    (void)address;
    return 1;
}

static void mlayers_want_huge_pages(void *data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    uintptr_t mask = MLAYERS_HUGE_PAGE - 1, first = ((uintptr_t)data + mask) & ~mask;
    uintptr_t last = ((uintptr_t)data + (uintptr_t)bytes) & ~mask;
    if (first < last) madvise((void *)first, last - first, MADV_HUGEPAGE); /* advice: may fail */
#endif
    (void)data;
    (void)bytes;
}

static int64_t mlayers_bytes(const mlayers_call *call, const mlayers_array *array) {
    static const int64_t width[] = {4, 8, 2, 2}; /* by dtype */
    return array->size * width[call->dtype];
}

/* Before a kernel runs: says in call->streams how to store, and prepares what is fresh. An input beyond
 * the caches counts as well: of gradients of 8 MB made from 134, little is left in them. (ffm multiply,
 * float32, 16 by 16 fields, D 16, with two threads of an AMD EPYC, the gradients and then a read of
 * them: 8192 rows 3.5 ms in the ordinary way and 3.0 past the caches, 4096 rows 1.63 and 1.45. The sum
 * of all arrays is no measure: outputs of 16 to 29 MB, with which a call comes to 33 to 38, take 1.1 to
 * 1.3 of the time if they are read. An upstream of 34 to 64 MB: 0.9 with the read.) */
static void mlayers_prepare_outputs(mlayers_call *call) {
    int fresh = 0, there = 0;
    int64_t largest = 0;
    for (int32_t i = 0; i < call->n_inputs; i++) {
        int64_t bytes = mlayers_bytes(call, &call->inputs[i]);
        if (bytes > largest) largest = bytes;
    }
    for (int32_t i = 0; i < call->n_outputs; i++) {
        int64_t bytes = mlayers_bytes(call, &call->outputs[i]);
        if (bytes > largest) largest = bytes;
        if (bytes < MLAYERS_LARGE) continue;
        if (mlayers_is_there((char *)call->outputs[i].data + bytes / 2)) {
            there = 1;
        } else {
            fresh = 1;
            mlayers_want_huge_pages(call->outputs[i].data, bytes);
        }
    }
    call->streams = there && !fresh && largest > mlayers_cache_size();
}

#endif
