/* SPDX-License-Identifier: Apache-2.0
 *
 * One C struct describes a call for every op. Each kernel is a `void kernel(const mlayers_call *)`
 * that trusts its caller: shapes agree, arrays are C-contiguous, outputs do not overlap inputs.
 * Whoever calls (NumPy today, a framework's runtime later) fills this struct and knows no op by name.
 */
#ifndef MLAYERS_CALL_H
#define MLAYERS_CALL_H

#include <stdint.h>

#ifdef _OPENMP
#include <omp.h>
#define MLAYERS_HAS_OPENMP 1
static inline int mlayers_max_threads(void) { return omp_get_max_threads(); }
#else
#define MLAYERS_HAS_OPENMP 0
static inline int mlayers_max_threads(void) { return 1; }
#endif

#if defined(_MSC_VER)
#define MLAYERS_RESTRICT __restrict
#else
#define MLAYERS_RESTRICT __restrict__
#endif

enum { MLAYERS_FLOAT32 = 0, MLAYERS_FLOAT64 = 1, MLAYERS_MAX_ARRAYS = 8 };

typedef struct {
    void *data;
    int64_t rank;
    const int64_t *shape;
    int64_t size; /* number of elements */
} mlayers_array;

typedef struct {
    int32_t dtype;   /* of every input and output */
    int32_t threads; /* how many threads a kernel may use */
    mlayers_array inputs[MLAYERS_MAX_ARRAYS];
    mlayers_array outputs[MLAYERS_MAX_ARRAYS];
    const int64_t *ints; /* integer attributes in declared order; a list comes last */
    int64_t n_ints;
    const double *floats; /* real attributes in declared order */
    int64_t n_floats;
} mlayers_call;

typedef void (*mlayers_kernel)(const mlayers_call *);

/* Threads worth starting for `work` multiply-adds. A team halves some milliseconds of work on two
 * idle cores; but it waits by spinning, and when another process wants the core a call can lose a
 * whole scheduling slice (8 ms were seen where one thread takes 0.5). So small jobs stay serial. */
#define MLAYERS_PARALLEL_WORK ((int64_t)1 << 24)

static inline int mlayers_threads_for(const mlayers_call *call, int64_t work) {
    return work < MLAYERS_PARALLEL_WORK ? 1 : call->threads;
}

#endif
