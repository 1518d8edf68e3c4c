/* SPDX-License-Identifier: Apache-2.0
 *
 * The one thread pool of a process, shared by NumPy calls and by every bridge that has no threads of
 * its own to offer. Included by _call.pyx alone, so that there is one.
 *
 * Its threads do not wait at the cores' expense: a framework's own pool wants them between our calls,
 * and a team that spins beside it costs milliseconds. Only for MLAYERS_PATIENCE does one look out for
 * the next job before it sleeps. NumPy has no pool, and a program's own Python takes some 20 us from one
 * call to the next: after its calls one looks out for MLAYERS_PATIENCE_ALONE, about as long as it takes
 * a virtual machine to wake a thread, and lets others have the core. (ffm multiply with 512 rows, 0, 20
 * and 50 us after the last call: 88, 146, 145 us with the shorter patience, 91, 92, 92 with the longer;
 * from TensorFlow, forward and backward, 980 and 1120.) The caller works too, and never waits for a
 * thread that has not begun, so that calls from many threads at once cannot starve one another.
 *
 *   caller                                   worker
 *   put the job on the list, wake workers    look out for a job, then sleep until there is one; join
 *   take chunks until none is left           take chunks until none is left
 *   take the job off, wait for those inside  leave; the last one out wakes the caller
 */
#ifndef MLAYERS_POOL_H
#define MLAYERS_POOL_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "call.h"

#define MLAYERS_MAX_THREADS 1024
#define MLAYERS_STACK (1 << 20) /* bytes, at least: musl gives 128 KB, and one kernel takes 300 */
#define MLAYERS_PATIENCE 30000 /* nanoseconds */
#define MLAYERS_PATIENCE_ALONE 100000

/* How many threads a call may use, the caller among them. Visible, for threadpoolctl. */
static int mlayers_threads = 1;

__attribute__((visibility("default"))) int mlayers_get_num_threads(void) {
    return __atomic_load_n(&mlayers_threads, __ATOMIC_RELAXED);
}

__attribute__((visibility("default"))) void mlayers_set_num_threads(int threads) {
    if (threads < 1) threads = 1;
    if (threads > MLAYERS_MAX_THREADS) threads = MLAYERS_MAX_THREADS;
    __atomic_store_n(&mlayers_threads, threads, __ATOMIC_RELAXED);
}

/* How a thread rounds, and whether it takes subnormals for 0, as XLA and TensorFlow have it. Another
 * thread is in another mode, so a worker takes the caller's: no result depends on who computes it. */
#if defined(__x86_64__)
typedef unsigned mlayers_float_mode;
static mlayers_float_mode mlayers_get_float_mode(void) {
    return _mm_getcsr() & ~0x3fu; /* without what has happened so far */
}
static void mlayers_set_float_mode(mlayers_float_mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
typedef uint64_t mlayers_float_mode;
static mlayers_float_mode mlayers_get_float_mode(void) {
    mlayers_float_mode mode;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static void mlayers_set_float_mode(mlayers_float_mode mode) {
    __asm__ __volatile__("msr fpcr, %0" : : "r"(mode));
}
#else
typedef int mlayers_float_mode;
static mlayers_float_mode mlayers_get_float_mode(void) { return 0; }
static void mlayers_set_float_mode(mlayers_float_mode mode) { (void)mode; }
#endif

typedef struct mlayers_posting {
    mlayers_job job;
    mlayers_float_mode mode; /* the caller's */
    int inside;   /* workers that joined and have not left; atomic, changed under the lock */
    int may_join; /* how many more may; under the lock */
    int patience; /* of those that joined, afterwards */
    struct mlayers_posting *link;
} mlayers_posting;

static pthread_mutex_t mlayers_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t mlayers_work = PTHREAD_COND_INITIALIZER; /* a job is on the list */
static pthread_cond_t mlayers_left = PTHREAD_COND_INITIALIZER; /* somebody left a job */
static mlayers_posting *mlayers_postings = NULL;               /* under the lock */
static int mlayers_workers = 0;                                /* under the lock */
static int mlayers_posted = 0; /* counts jobs, round and round; atomic, changed under the lock */
static int mlayers_atfork_done = 0;                            /* under the lock */

/* Looks at a number until it is no longer `before`, or patience ends. */
static void mlayers_look_out(const int *number, int before, int patience) {
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (int i = 0; i < 32; i++) {
            if (__atomic_load_n(number, __ATOMIC_ACQUIRE) != before) return;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            __asm__ __volatile__("yield");
#endif
        }
        if (patience > MLAYERS_PATIENCE) sched_yield(); /* others may have the core */
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec < patience);
}

static int mlayers_has_work(const mlayers_posting *posting) {
    return posting->may_join > 0 && mlayers_has_chunks(&posting->job);
}

static void *mlayers_worker(void *number) {
    int looked_out = 1; /* there is a job, or it would not have been hired */
    int patience = MLAYERS_PATIENCE;
    pthread_mutex_lock(&mlayers_lock);
    for (;;) {
        mlayers_posting *posting = mlayers_postings;
        while (posting && !mlayers_has_work(posting)) posting = posting->link;
        if (!posting && looked_out) {
            pthread_cond_wait(&mlayers_work, &mlayers_lock);
            continue;
        }
        if (!posting) {
            int posted = mlayers_posted;
            pthread_mutex_unlock(&mlayers_lock);
            mlayers_look_out(&mlayers_posted, posted, patience);
            pthread_mutex_lock(&mlayers_lock);
            looked_out = mlayers_posted == posted;
            continue;
        }
        looked_out = 0;
        patience = posting->patience;
        posting->may_join--;
        posting->inside++;
        pthread_mutex_unlock(&mlayers_lock);
        mlayers_set_float_mode(posting->mode);
        mlayers_work_on(&posting->job, (int64_t)(intptr_t)number);
        pthread_mutex_lock(&mlayers_lock);
        __atomic_sub_fetch(&posting->inside, 1, __ATOMIC_RELEASE); /* at 0 it may be gone */
        pthread_cond_broadcast(&mlayers_left);
    }
    return NULL;
}

/* Threads do not survive fork(), nor may the lock stay with one of them: the child starts anew. */
static void mlayers_after_fork(void) {
    pthread_mutex_init(&mlayers_lock, NULL);
    pthread_cond_init(&mlayers_work, NULL);
    pthread_cond_init(&mlayers_left, NULL);
    mlayers_postings = NULL;
    mlayers_workers = 0;
}

/* Under the lock: as many workers as wanted, or as many as the system will give. */
static void mlayers_hire(int wanted) {
    sigset_t all, before;
    pthread_attr_t attributes;
    size_t stack;
    if (!mlayers_atfork_done) {
        mlayers_atfork_done = 1;
        pthread_atfork(NULL, NULL, mlayers_after_fork);
    }
    if (mlayers_workers >= wanted) return;
    sigfillset(&all); /* signals are for the program's own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    if (pthread_attr_getstacksize(&attributes, &stack) == 0 && stack < MLAYERS_STACK)
        pthread_attr_setstacksize(&attributes, MLAYERS_STACK);
    while (mlayers_workers < wanted) {
        pthread_t thread;
        void *number = (void *)(intptr_t)(mlayers_workers + 1); /* a caller is 0 */
        if (pthread_create(&thread, &attributes, mlayers_worker, number)) break;
        pthread_detach(thread);
        mlayers_workers++;
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void mlayers_post(const mlayers_call *call, int64_t rows, mlayers_body body, int patience) {
    int helpers = call->threads - 1;
    mlayers_posting posting, **link;
    if (rows < 2 || helpers < 1) {
        body(call, 0, rows);
        return;
    }
    if (helpers >= rows) helpers = (int)rows - 1;
    mlayers_begin(&posting.job, call, rows, body);
    posting.mode = mlayers_get_float_mode();
    posting.inside = 0;
    posting.may_join = helpers;
    posting.patience = patience;
    pthread_mutex_lock(&mlayers_lock);
    mlayers_hire(helpers);
    posting.link = mlayers_postings;
    mlayers_postings = &posting;
    __atomic_add_fetch(&mlayers_posted, 1, __ATOMIC_RELEASE);
    if (helpers == 1)
        pthread_cond_signal(&mlayers_work);
    else
        pthread_cond_broadcast(&mlayers_work);
    pthread_mutex_unlock(&mlayers_lock);

    mlayers_work_on(&posting.job, 0);

    pthread_mutex_lock(&mlayers_lock);
    for (link = &mlayers_postings; *link != &posting; link = &(*link)->link) {
    }
    *link = posting.link;
    helpers = posting.inside;
    pthread_mutex_unlock(&mlayers_lock);
    if (helpers == 0) return;
    for (int left = helpers; left > 0; left--)
        mlayers_look_out(&posting.inside, left, MLAYERS_PATIENCE);
    pthread_mutex_lock(&mlayers_lock);
    while (posting.inside > 0) pthread_cond_wait(&mlayers_left, &mlayers_lock);
    pthread_mutex_unlock(&mlayers_lock);
}

/* A body's rows on the pool: beside a framework's threads, and alone. */
static void mlayers_on_pool(const mlayers_call *call, int64_t rows, mlayers_body body) {
    mlayers_post(call, rows, body, MLAYERS_PATIENCE);
}

static void mlayers_on_pool_alone(const mlayers_call *call, int64_t rows, mlayers_body body) {
    mlayers_post(call, rows, body, MLAYERS_PATIENCE_ALONE);
}

#endif
