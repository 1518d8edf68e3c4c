/* SPDX-License-Identifier: Apache-2.0
 *
 * The stable C layout of XLA FFI, version 0.1 and later (xla/ffi/api/c_api.h), as far as a handler
 * needs it; declared here because no framework is needed to build this. Only fields that exist in
 * every version are read without a look at `struct_size`. Included by jax.c and jax_cuda.c.
 */
#ifndef MLAYERS_XLA_FFI_H
#define MLAYERS_XLA_FFI_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

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
    void *context;
    void *stream;
} stream_arguments;

typedef struct {
    size_t struct_size;
    extension *extensions;
    void *context;
    int32_t ordinal;
} ordinal_arguments;

typedef struct {
    size_t struct_size;
    extension *extensions;
    version api;
    void *internal;
    void *(*create_error)(error_arguments *);
    void *error_message, *destroy_error, *register_handler;
    void *(*get_stream)(stream_arguments *);
    void *others[12];
    void *(*get_ordinal)(ordinal_arguments *);
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

/* --- what handlers share --- */

static inline void *fail(const call_frame *frame, int code, const char *message) {
    error_arguments arguments = {
        offsetof(error_arguments, code) + sizeof(int), NULL, message, code};
    return frame->api->create_error(&arguments);
}

static inline const void *attribute(const call_frame *frame, const char *name, int type) {
    const attributes *all = &frame->attributes;
    for (int64_t i = 0; i < all->size; i++)
        if (all->names[i]->length == strlen(name) && all->types[i] == type &&
            memcmp(all->names[i]->data, name, all->names[i]->length) == 0)
            return all->values[i];
    return NULL;
}

/* XLA asks, once, for which version a handler was written; it serves that one and later. No trait:
 * in particular it is not recorded into command buffers. */
static inline void answer_metadata(call_frame *frame) {
    metadata_extension *answer = (metadata_extension *)frame->extensions;
    answer->metadata->api.major = 0;
    answer->metadata->api.minor = 1;
    answer->metadata->traits = 0;
}

#endif
