/* SPDX-License-Identifier: Apache-2.0
 *
 * Lets XLA on the CPU call the handler that it would call on a GPU (mlayers/bridges/jax_cuda.c):
 * XLA has no stream there, so the handler gets a frame in which two of XLA's functions are ours.
 * Built and used by jax_emulated.py.
 */
#include "xla_ffi.h"

#define VISIBLE __attribute__((visibility("default")))

enum { INVALID_HANDLE = 400, DECLINED = 701 }; /* CUresult; the second: too many resources */

typedef void *(*handler)(call_frame *);
typedef int (*launch_function)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                               unsigned, void *, void **, void **);

static handler real_handler;
static launch_function real_launch;
static int stream; /* whose address is the stream */

/* What the tests look at and set. XLA calls from several threads. */
VISIBLE int mlayers_calls, mlayers_launches, mlayers_refuse;

static void *get_stream(stream_arguments *arguments) {
    arguments->stream = &stream;
    return NULL;
}

/* Where XLA cannot tell, as jaxlib before 0.6 cannot: everything is the first device. */
static void *get_ordinal(ordinal_arguments *arguments) {
    arguments->ordinal = 0;
    return NULL;
}

VISIBLE void *mlayers_call_on_cpu(call_frame *frame) {
    if (frame->extensions && frame->extensions->type == EXTENSION_METADATA)
        return real_handler(frame);
    api changed = {0};
    call_frame passed = *frame;
    const size_t known = frame->api->struct_size;
    memcpy(&changed, frame->api, known < sizeof changed ? known : sizeof changed);
    changed.struct_size = sizeof changed;
    changed.get_stream = get_stream;
    if (changed.get_ordinal == NULL) changed.get_ordinal = get_ordinal;
    passed.api = &changed;
    __atomic_add_fetch(&mlayers_calls, 1, __ATOMIC_RELAXED);
    return real_handler(&passed);
}

/* In the place of cuLaunchKernel. */
VISIBLE int mlayers_launch(void *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                           unsigned by, unsigned bz, unsigned shared, void *on, void **arguments,
                           void **extra) {
    if (on != &stream) return INVALID_HANDLE;
    if (mlayers_refuse) return DECLINED;
    __atomic_add_fetch(&mlayers_launches, 1, __ATOMIC_RELAXED);
    return real_launch(kernel, gx, gy, gz, bx, by, bz, shared, on, arguments, extra);
}

VISIBLE void mlayers_start_on_cpu(handler call, launch_function launch) {
    real_handler = call;
    real_launch = launch;
}
