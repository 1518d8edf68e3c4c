/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine's side of the JAX bridge: one XLA FFI handler for every op.
 *
 * XLA calls `mlayers_xla_call` inside a compiled program, on one of its own threads, with pointers to
 * its buffers: no Python, no copy. The structs below are the stable C layout of XLA FFI (version 0.1
 * and later; xla/ffi/api/c_api.h), declared here because no framework is needed to build this. Only
 * fields that exist in every version are read; each struct tells its own size.
 */
#include <stdio.h>
#include <string.h>

#include "call.h"

#define VISIBLE __attribute__((visibility("default")))

/* --- XLA FFI --- */

enum { EXTENSION_METADATA = 1, ATTRIBUTE_ARRAY = 1, ATTRIBUTE_STRING = 4 };
enum { TYPE_S64 = 5, TYPE_F16 = 10, TYPE_F32 = 11, TYPE_F64 = 12, TYPE_BF16 = 16 };
enum { INVALID_ARGUMENT = 3, INTERNAL = 13 };

typedef struct extension {
    size_t struct_size;
    int type;
    struct extension *next;
} extension;

typedef struct {
    const char *data;
    size_t length;
} span;

typedef struct {
    int type;
    size_t size;
    void *data;
} array;

typedef struct {
    size_t struct_size;
    extension *extensions;
    int type;
    void *data;
    int64_t rank;
    int64_t *dims;
} buffer;

typedef struct {
    size_t struct_size;
    extension *extensions;
    int major, minor;
} version;

typedef struct {
    extension base;
    struct {
        size_t struct_size;
        version api;
        uint32_t traits;
    } *metadata;
} metadata_extension;

typedef struct {
    size_t struct_size;
    extension *extensions;
    const char *message;
    int code;
} error_arguments;

typedef struct {
    size_t struct_size;
    extension *extensions;
    version api;
    void *internal;
    void *(*create_error)(error_arguments *);
} api;

typedef struct {
    size_t struct_size;
    extension *extensions;
    int64_t size;
    int *types;
    void **values;
} buffers;

typedef struct {
    size_t struct_size;
    extension *extensions;
    int64_t size;
    int *types;
    span **names;
    void **values;
} attributes;

typedef struct {
    size_t struct_size;
    extension *extensions;
    const api *api;
    void *context;
    int stage;
    buffers arguments;
    buffers results;
    attributes attributes;
} call_frame;

/* --- the handler --- */

static const mlayers_runtime *runtime;

static void *fail(const call_frame *frame, int code, const char *message) {
    error_arguments arguments = {
        offsetof(error_arguments, code) + sizeof(int), NULL, message, code};
    return frame->api->create_error(&arguments);
}

static const void *attribute(const call_frame *frame, const char *name, int type) {
    const attributes *all = &frame->attributes;
    for (int64_t i = 0; i < all->size; i++)
        if (all->names[i]->length == strlen(name) && all->types[i] == type &&
            memcmp(all->names[i]->data, name, all->names[i]->length) == 0)
            return all->values[i];
    return NULL;
}

/* A dtype of call.h, or -1. */
static int32_t dtype_of(int type) {
    switch (type) {
        case TYPE_F32: return MLAYERS_FLOAT32;
        case TYPE_F64: return MLAYERS_FLOAT64;
        case TYPE_F16: return MLAYERS_FLOAT16;
        case TYPE_BF16: return MLAYERS_BFLOAT16;
        default: return -1;
    }
}

static int read_buffer(const buffer *from, int type, mlayers_array *to) {
    if (from->type != type) return 0;
    to->data = from->data;
    to->rank = from->rank;
    to->shape = from->dims;
    to->size = 1;
    for (int64_t i = 0; i < from->rank; i++) to->size *= from->dims[i];
    return 1;
}

VISIBLE void *mlayers_xla_call(call_frame *frame) {
    mlayers_call call = {0};
    const span *name;
    const array *ints, *floats;
    const mlayers_op *op;
    int type;

    if (frame->extensions && frame->extensions->type == EXTENSION_METADATA) {
        /* XLA asks, once, for which version this was written; it serves that one and later. */
        metadata_extension *answer = (metadata_extension *)frame->extensions;
        answer->metadata->api.major = 0;
        answer->metadata->api.minor = 1;
        answer->metadata->traits = 0;
        return NULL;
    }
    name = attribute(frame, "op", ATTRIBUTE_STRING);
    ints = attribute(frame, "ints", ATTRIBUTE_ARRAY);
    floats = attribute(frame, "floats", ATTRIBUTE_ARRAY);
    if (!name || !ints || !floats || (ints->size && ints->type != TYPE_S64) ||
        (floats->size && floats->type != TYPE_F64))
        return fail(frame, INTERNAL, "mlayers: a call without 'op', 'ints' and 'floats'");
    op = runtime->find(name->data, name->length);
    if (!op) {
        char words[160];
        snprintf(words, sizeof words, "mlayers: there is no kernel named '%.*s'",
                 name->length < 80 ? (int)name->length : 80, name->data);
        return fail(frame, INVALID_ARGUMENT, words);
    }
    if (frame->arguments.size < 1 || frame->arguments.size > MLAYERS_MAX_ARRAYS ||
        frame->results.size > MLAYERS_MAX_ARRAYS)
        return fail(frame, INVALID_ARGUMENT, "mlayers: a call with too few or too many arrays");
    call.n_inputs = (int32_t)frame->arguments.size;
    call.ints = ints->data;
    call.n_ints = (int64_t)ints->size;
    call.floats = floats->data;
    call.n_floats = (int64_t)floats->size;
    type = ((const buffer *)frame->arguments.values[0])->type;
    call.dtype = dtype_of(type);
    if (call.dtype < 0)
        return fail(frame, INVALID_ARGUMENT,
                    "mlayers: kernels take float16, bfloat16, float32 or float64");
    for (int i = 0; i < call.n_inputs; i++)
        if (!read_buffer(frame->arguments.values[i], type, &call.inputs[i]))
            return fail(frame, INVALID_ARGUMENT, "mlayers: inputs of different dtypes");
    if (!op->shapes(&call)) {
        char words[1024];
        runtime->explain(op, &call, words, sizeof words);
        return fail(frame, INVALID_ARGUMENT, words);
    }
    if (call.n_outputs != frame->results.size)
        return fail(frame, INTERNAL, "mlayers: a wrong number of results");
    for (int i = 0; i < call.n_outputs; i++) {
        mlayers_array result;
        if (!read_buffer(frame->results.values[i], type, &result) ||
            !mlayers_same_shape(&result, &call.outputs[i]))
            return fail(frame, INTERNAL, "mlayers: a result of another dtype or shape");
        call.outputs[i].data = result.data;
    }
    runtime->run(op, &call);
    return NULL;
}

/* Nothing is looked up in JAX: the handler is handed to it, and it hands over its own functions. */
VISIBLE int mlayers_start(const mlayers_runtime *given, char *why, size_t room) {
    (void)why;
    (void)room;
    runtime = given;
    return 1;
}
