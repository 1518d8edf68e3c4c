/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine's side of the JAX bridge: one XLA FFI handler for every op.
 *
 * XLA calls `mlayers_xla_call` inside a compiled program, on one of its own threads, with pointers to
 * its buffers: no Python, no copy. XLA's structs are in xla_ffi.h.
 */
#include <stdio.h>
#include <string.h>

#include "call.h"
#include "xla_ffi.h"

#define VISIBLE __attribute__((visibility("default")))

/* --- the handler --- */

static const mlayers_runtime *runtime;

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
        answer_metadata(frame);
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
