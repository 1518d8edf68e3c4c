/* SPDX-License-Identifier: Apache-2.0
 *
 * The GPU's side of the JAX bridge: one XLA FFI handler that starts the kernels of a plan
 * (kernels_cu/plan.py) on XLA's stream. The plan is written into the compiled program, by names and
 * numbers: no pointer, so that a program may be kept on disk and run in another process.
 *
 *     code       names a text of kernels; whoever compiles it understands it (jax_cuda.py)
 *     kernels    the names of the kernels to start, blanks between them
 *     launches   for each: blocks along x and y, threads, bytes of shared memory, how many
 *                arguments, and for each two numbers: what it is (enum below) and its value
 *
 * A kernel's address is asked for, with Python and its GIL, the first time that a device needs it;
 * after that no Python runs. XLA has made the device current before it calls.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xla_ffi.h"

#define VISIBLE __attribute__((visibility("default")))

enum { INTEGER, REAL, INPUT, OUTPUT, SCRATCH }; /* SCRATCH: an offset into the last result */
enum { MAX_ARGUMENTS = 32, MAX_NAME = 128, ALIGNMENT = 16 };

/* cuLaunchKernel of the CUDA driver. */
typedef int (*launch_function)(void *kernel, unsigned blocks_x, unsigned blocks_y,
                               unsigned blocks_z, unsigned threads_x, unsigned threads_y,
                               unsigned threads_z, unsigned shared, void *stream,
                               void **arguments, void **extra);

/* Writes a kernel's address on a device, or a sentence into `why`; after an interrupt neither. */
typedef void (*find_function)(const char *code, const char *kernel, int32_t device, void **address,
                              char *why, size_t room);

static launch_function launch_kernel;
static find_function find_kernel;

/* --- addresses already found: one list, only ever prepended to --- */

typedef struct found {
    struct found *next;
    void *address;
    int32_t device;
    char *code, *kernel;
} found;

static found *first_found;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static char *copied(const char *text, size_t length) {
    char *copy = malloc(length + 1);
    if (copy != NULL) {
        memcpy(copy, text, length);
        copy[length] = 0;
    }
    return copy;
}

static void *address_of(const span *code, const char *kernel, int32_t device, char *why,
                        size_t room) {
    found *entry;
    pthread_mutex_lock(&lock);
    entry = first_found;
    pthread_mutex_unlock(&lock);
    for (; entry != NULL; entry = entry->next)
        if (entry->device == device && strcmp(entry->kernel, kernel) == 0 &&
            strlen(entry->code) == code->length &&
            memcmp(entry->code, code->data, code->length) == 0)
            return entry->address;
    entry = malloc(sizeof *entry);
    char *code_copy = copied(code->data, code->length);
    char *kernel_copy = copied(kernel, strlen(kernel));
    void *address = NULL;
    snprintf(why, room, "mlayers: the kernel %s was not found", kernel);
    if (entry != NULL && code_copy != NULL && kernel_copy != NULL) /* not under the lock */
        find_kernel(code_copy, kernel_copy, device, &address, why, room);
    if (address == NULL) {
        free(entry);
        free(code_copy);
        free(kernel_copy);
        return NULL;
    }
    *entry = (found){NULL, address, device, code_copy, kernel_copy};
    pthread_mutex_lock(&lock);
    entry->next = first_found;
    first_found = entry;
    pthread_mutex_unlock(&lock);
    return address;
}

/* --- the handler --- */

/* The next name of a list, after `*at`, as a string; 0 where there is none or it is too long. */
static int next_name(const span *names, size_t *at, char *name) {
    size_t length = 0;
    while (*at < names->length && names->data[*at] == ' ') ++*at;
    while (*at + length < names->length && names->data[*at + length] != ' ') length++;
    if (length == 0 || length >= MAX_NAME) return 0;
    memcpy(name, names->data + *at, length);
    name[length] = 0;
    *at += length;
    return 1;
}

/* An argument in 8 bytes; 0 where there is no such array, or it is not aligned. */
static int word_of(const call_frame *frame, int64_t kind, int64_t value, uint64_t *word) {
    const buffers *all = kind == INPUT ? &frame->arguments : &frame->results;
    int64_t position = kind == SCRATCH ? all->size - 1 : value;
    *word = (uint64_t)value;
    if (kind == INTEGER || kind == REAL) return 1;
    if (kind < INTEGER || kind > SCRATCH || position < 0 || position >= all->size) return 0;
    *word = (uint64_t)(uintptr_t)((const buffer *)all->values[position])->data;
    if (*word % ALIGNMENT != 0) return 0;
    if (kind == SCRATCH) *word += (uint64_t)value;
    return 1;
}

VISIBLE void *mlayers_xla_cuda_call(call_frame *frame) {
    const span *code, *kernels;
    const array *launches;
    const int64_t *numbers, *end;
    size_t at = 0;
    char kernel[MAX_NAME], why[1024];
    void *error;

    if (frame->extensions && frame->extensions->type == EXTENSION_METADATA) {
        answer_metadata(frame);
        return NULL;
    }
    if (frame->api->struct_size < offsetof(api, get_ordinal) + sizeof frame->api->get_ordinal)
        return fail(frame, INTERNAL, "mlayers: this XLA does not tell a handler its device");
    stream_arguments stream = {sizeof stream, NULL, frame->context, NULL};
    ordinal_arguments device = {
        offsetof(ordinal_arguments, ordinal) + sizeof(int32_t), NULL, frame->context, 0};
    if ((error = frame->api->get_stream(&stream)) || (error = frame->api->get_ordinal(&device)))
        return error;
    code = attribute(frame, "code", ATTRIBUTE_STRING);
    kernels = attribute(frame, "kernels", ATTRIBUTE_STRING);
    launches = attribute(frame, "launches", ATTRIBUTE_ARRAY);
    if (!code || !kernels || !launches || (launches->size && launches->type != TYPE_S64))
        return fail(frame, INTERNAL, "mlayers: a call without 'code', 'kernels' and 'launches'");
    numbers = launches->data;
    end = numbers + launches->size;
    while (end - numbers >= 5) {
        uint64_t words[MAX_ARGUMENTS];
        void *arguments[MAX_ARGUMENTS];
        const int64_t *pairs = numbers + 5, count = numbers[4];
        int refused;
        if (count < 0 || count > MAX_ARGUMENTS || end - pairs < 2 * count ||
            !next_name(kernels, &at, kernel))
            return fail(frame, INTERNAL, "mlayers: a call with malformed 'launches' or 'kernels'");
        for (int64_t i = 0; i < count; i++) {
            if (!word_of(frame, pairs[2 * i], pairs[2 * i + 1], &words[i]))
                return fail(frame, INTERNAL,
                            "mlayers: a call with too few arrays, or with one that does not begin "
                            "at a multiple of 16 bytes");
            arguments[i] = &words[i];
        }
        void *address = address_of(code, kernel, device.ordinal, why, sizeof why);
        if (address == NULL) return fail(frame, INTERNAL, why);
        refused = launch_kernel(address, (unsigned)numbers[0], (unsigned)numbers[1], 1,
                                (unsigned)numbers[2], 1, 1, (unsigned)numbers[3], stream.stream,
                                arguments, NULL);
        if (refused) {
            snprintf(why, sizeof why, "mlayers: CUDA did not start the kernel %s: error %d", kernel,
                     refused);
            return fail(frame, INTERNAL, why);
        }
        numbers = pairs + 2 * count;
    }
    if (numbers != end || next_name(kernels, &at, kernel))
        return fail(frame, INTERNAL, "mlayers: a call with malformed 'launches' or 'kernels'");
    return NULL;
}

/* Hand over cuLaunchKernel, and who knows where kernels are. */
VISIBLE void mlayers_start_cuda(launch_function launch, find_function find) {
    launch_kernel = launch;
    find_kernel = find;
}
