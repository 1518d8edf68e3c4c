/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory for large outputs on torch. Included by torch.cpp alone.
 *
 * torch takes every output from malloc and gives it back, and glibc hands large ones on to the system:
 * the next call then waits for fresh pages, which takes longer than the arithmetic, or gets another
 * place, whose lines are in no cache. Here a block that a tensor leaves is kept for the next output
 * of its size. At most a cache's worth is held so; of what is beyond, the system is told that it may
 * take the pages back whenever it wants them (MADV_FREE: 7 µs per MB).
 */
#ifndef MLAYERS_TORCH_MEMORY_H
#define MLAYERS_TORCH_MEMORY_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace {

#if defined(__linux__) && defined(MADV_FREE) && defined(MADV_HUGEPAGE)

constexpr size_t LARGE_OUTPUT = size_t(4) << 20; /* below it malloc keeps memory by itself */
constexpr size_t HUGE_PAGE = size_t(2) << 20;
constexpr size_t MOST_HELD = size_t(32) << 20; /* bytes */
constexpr int MOST_KEPT = 8;                   /* blocks */

struct Block {
    void *data;
    size_t bytes; /* whole huge pages */
    bool held;    /* else the system may take its pages */
};

/* The last kept is the last. A lock that another thread holds, or held when it forked, is not waited
 * for: the system has memory as well. */
Block kept[MOST_KEPT];
int n_kept = 0;
pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;

size_t whole_pages(size_t bytes) { return (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE; }

/* Whole huge pages, aligned to one; or NULL. */
void *map_block(size_t bytes) {
    size_t room = bytes + HUGE_PAGE;
    void *found = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) return nullptr;
    char *start = static_cast<char *>(found);
    size_t before = (HUGE_PAGE - reinterpret_cast<uintptr_t>(start) % HUGE_PAGE) % HUGE_PAGE;
    if (before > 0) munmap(start, before);
    munmap(start + before + bytes, HUGE_PAGE - before);
    madvise(start + before, bytes, MADV_HUGEPAGE); /* advice: may fail */
    return start + before;
}

/* A block for so many bytes, or NULL where malloc is as good or there is no memory. */
void *take_block(size_t bytes) {
    if (bytes < LARGE_OUTPUT) return nullptr;
    bytes = whole_pages(bytes);
    void *found = nullptr;
    if (pthread_mutex_trylock(&kept_lock) == 0) {
        int i = n_kept - 1;
        while (i >= 0 && kept[i].bytes != bytes) i--;
        if (i >= 0) {
            found = kept[i].data;
            for (n_kept--; i < n_kept; i++) kept[i] = kept[i + 1];
        }
        pthread_mutex_unlock(&kept_lock);
    }
    return found != nullptr ? found : map_block(bytes);
}

/* Under the lock. */
size_t bytes_held() {
    size_t sum = 0;
    for (int i = 0; i < n_kept; i++) sum += kept[i].held ? kept[i].bytes : 0;
    return sum;
}

/* What torch calls when the last tensor of a block is gone; `bytes` as given to take_block. */
void give_block(void *data, void *bytes_wanted) {
    size_t bytes = whole_pages(reinterpret_cast<size_t>(bytes_wanted));
    Block given = {data, bytes, false}, left = given;
    if (pthread_mutex_trylock(&kept_lock) == 0) {
        if (n_kept == MOST_KEPT) {
            left = kept[0];
            for (int i = 1; i < n_kept; i++) kept[i - 1] = kept[i];
            n_kept--;
        } else {
            left.data = nullptr;
        }
        given.held = bytes_held() + bytes <= MOST_HELD;
        if (!given.held) madvise(data, bytes, MADV_FREE); /* where it fails, it is held */
        kept[n_kept++] = given;
        pthread_mutex_unlock(&kept_lock);
    }
    if (left.data != nullptr) munmap(left.data, left.bytes);
}

#else

void *take_block(size_t) { return nullptr; }
void give_block(void *, void *) {}

#endif

}  // namespace
#endif
