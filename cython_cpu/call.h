/* SPDX-License-Identifier: Apache-2.0
 *
 * One C struct describes a call for every op, whoever makes it: NumPy through _call.pyx, JAX,
 * TensorFlow and torch through mlayers/bridges. None of them knows an op by name.
 *
 * An op is two functions. `shapes` looks at inputs and attributes, says whether they fit one another
 * and lays down the shapes of the outputs; `kernel` then computes, and trusts what it gets: arrays
 * are C-contiguous, of one dtype, and outputs do not overlap inputs.
 */
#ifndef MLAYERS_CALL_H
#define MLAYERS_CALL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { MLAYERS_FLOAT32 = 0, MLAYERS_FLOAT64 = 1, MLAYERS_FLOAT16 = 2, MLAYERS_BFLOAT16 = 3 };
enum { MLAYERS_MAX_ARRAYS = 8 };

typedef struct {
    void *data;
    int64_t rank;
    const int64_t *shape;
    int64_t size; /* number of elements */
} mlayers_array;

typedef struct mlayers_call mlayers_call;

/* Computes the rows first <= row < last; what a row is, the kernel decides. */
typedef void (*mlayers_body)(const mlayers_call *, int64_t first, int64_t last);

/* Runs `body` over n rows on `threads` threads and returns when all are done. */
typedef void (*mlayers_parallel)(const mlayers_call *, int64_t n, mlayers_body body);

struct mlayers_call {
    int32_t dtype; /* of every input and output */
    int32_t n_inputs;
    int32_t n_outputs; /* laid down by shapes() */
    int32_t threads;   /* how many threads this call may use */
    int32_t streams;   /* whether the outputs are better stored past the caches (memory.h) */
    mlayers_array inputs[MLAYERS_MAX_ARRAYS];
    mlayers_array outputs[MLAYERS_MAX_ARRAYS];
    const int64_t *ints; /* integer attributes in declared order; a list comes last */
    int64_t n_ints;
    const double *floats; /* real attributes in declared order */
    int64_t n_floats;
    int64_t room[MLAYERS_MAX_ARRAYS][2]; /* where shapes() may lay down an output's shape */
    mlayers_parallel parallel;
};

typedef void (*mlayers_kernel)(const mlayers_call *);
typedef int (*mlayers_shapes)(mlayers_call *); /* 1, or 0 where the inputs do not fit */

typedef struct {
    const char *name;
    mlayers_kernel kernel;
    mlayers_shapes shapes;
} mlayers_op;

/* What a bridge is given when it starts: everything it needs of this package. */
typedef struct {
    /* The op of that name, or NULL. */
    const mlayers_op *(*find)(const char *name, size_t length);
    /* Computes; shapes() has been called and the outputs have memory. */
    void (*run)(const mlayers_op *, mlayers_call *);
    /* The same on threads of the bridge's framework, at most `threads` of them. */
    void (*run_on)(const mlayers_op *, mlayers_call *, mlayers_parallel parallel, int32_t threads);
    /* Why shapes() answered 0, in the front door's words. The only function that takes Python's
     * GIL, and so only ever called on the way to an error. */
    void (*explain)(const mlayers_op *, const mlayers_call *, char *words, size_t room);
} mlayers_runtime;

/* --- for kernels --- */

/* Below so many multiply-adds, some tenths of a millisecond, a call stays on its thread: waking
 * another one goes through the system. */
#define MLAYERS_PARALLEL_WORK ((int64_t)1 << 19)

static inline void mlayers_for(const mlayers_call *call, int64_t n, int64_t work,
                               mlayers_body body) {
    if (call->threads <= 1 || work < MLAYERS_PARALLEL_WORK)
        body(call, 0, n);
    else
        call->parallel(call, n, body);
}

/* --- for whoever has threads --- */

enum { MLAYERS_CHUNKS = 8, MLAYERS_MAX_SHARES = 64 };

/* A body's rows in shares, one for each thread, and these in chunks. A thread takes its own share
 * first: of the call before, those rows are in its cache. Then it helps the others, so that nobody
 * waits for a thread that comes late. */
typedef struct {
    const mlayers_call *call;
    mlayers_body body;
    int64_t rows;
    int32_t shares;
    int32_t taken[MLAYERS_MAX_SHARES]; /* chunks, of each share; atomic, may be more than there are */
} mlayers_job;

static inline void mlayers_begin(mlayers_job *job, const mlayers_call *call, int64_t rows,
                                 mlayers_body body) {
    job->call = call;
    job->body = body;
    job->rows = rows;
    job->shares = call->threads < MLAYERS_MAX_SHARES ? call->threads : MLAYERS_MAX_SHARES;
    for (int32_t i = 0; i < job->shares; i++) job->taken[i] = 0;
}

static inline int mlayers_has_chunks(const mlayers_job *job) {
    for (int32_t i = 0; i < job->shares; i++)
        if (__atomic_load_n(&job->taken[i], __ATOMIC_RELAXED) < MLAYERS_CHUNKS) return 1;
    return 0;
}

/* What thread `thread` does, from 0; returns when no chunk is left. */
static inline void mlayers_work_on(mlayers_job *job, int64_t thread) {
    int64_t chunks = (int64_t)job->shares * MLAYERS_CHUNKS;
    for (int32_t i = 0; i < job->shares; i++) {
        int64_t share = (thread + i) % job->shares, taken;
        while ((taken = __atomic_fetch_add(&job->taken[share], 1, __ATOMIC_RELAXED)) < MLAYERS_CHUNKS) {
            int64_t chunk = share * MLAYERS_CHUNKS + taken;
            int64_t first = job->rows * chunk / chunks, last = job->rows * (chunk + 1) / chunks;
            if (first < last) job->body(job->call, first, last);
        }
    }
}

/* --- for shapes functions --- */

static inline int mlayers_takes(const mlayers_call *call, int32_t inputs, int64_t ints,
                                int64_t floats) {
    return call->n_inputs == inputs && call->n_ints == ints && call->n_floats == floats;
}

static inline int mlayers_is_matrix(const mlayers_array *array) { return array->rank == 2; }

static inline int mlayers_same_shape(const mlayers_array *one, const mlayers_array *other) {
    if (one->rank != other->rank) return 0;
    for (int64_t i = 0; i < one->rank; i++)
        if (one->shape[i] != other->shape[i]) return 0;
    return 1;
}

static inline int mlayers_has_shape(const mlayers_array *array, int64_t rows, int64_t columns) {
    return array->rank == 2 && array->shape[0] == rows && array->shape[1] == columns;
}

/* The next output has the shape (rows, columns). */
static inline void mlayers_returns(mlayers_call *call, int64_t rows, int64_t columns) {
    int32_t i = call->n_outputs++;
    call->room[i][0] = rows;
    call->room[i][1] = columns;
    call->outputs[i].rank = 2;
    call->outputs[i].shape = call->room[i];
    call->outputs[i].size = rows * columns;
}

/* The next output has the shape of an input. */
static inline void mlayers_returns_like(mlayers_call *call, int32_t input) {
    int32_t i = call->n_outputs++;
    call->outputs[i].rank = call->inputs[input].rank;
    call->outputs[i].shape = call->inputs[input].shape;
    call->outputs[i].size = call->inputs[input].size;
}

#ifdef __cplusplus
}
#endif
#endif
