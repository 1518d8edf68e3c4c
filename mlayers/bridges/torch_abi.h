/* SPDX-License-Identifier: Apache-2.0
 *
 * torch's stable C functions (torch/csrc/inductor/aoti_torch/c/shim.h and stable/c/shim.h), looked up
 * in the library that the program has loaded, and owners for what they hand out. Included by torch.cpp
 * alone.
 */
#ifndef MLAYERS_TORCH_ABI_H
#define MLAYERS_TORCH_ABI_H

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

namespace {

typedef uint64_t Word; /* StableIValue: an int64_t, a double or a handle, bit by bit */
typedef void (*Kernel)(Word *stack, Word n_inputs, Word n_outputs);

/* Those that may fail answer 0 where all went well. */
#define FUNCTIONS(X)                                                                           \
    X(int32_t, aoti_torch_library_init_impl,                                                   \
      (const char *, const char *, const char *, uint32_t, void **))                           \
    X(int32_t, aoti_torch_library_impl, (void *, const char *, Kernel))                        \
    X(int32_t, aoti_torch_delete_tensor_object, (void *))                                      \
    X(int32_t, aoti_torch_get_data_ptr, (void *, void **))                                     \
    X(int32_t, aoti_torch_get_dim, (void *, int64_t *))                                        \
    X(int32_t, aoti_torch_get_sizes, (void *, int64_t **))                                     \
    X(int32_t, aoti_torch_get_strides, (void *, int64_t **))                                   \
    X(int32_t, aoti_torch_get_dtype, (void *, int32_t *))                                      \
    X(int32_t, aoti_torch_get_device_type, (void *, int32_t *))                                \
    X(int32_t, aoti_torch_empty_strided,                                                       \
      (int64_t, const int64_t *, const int64_t *, int32_t, int32_t, int32_t, void **))         \
    X(int32_t, aoti_torch_dtype_float32, ())                                                   \
    X(int32_t, aoti_torch_dtype_float64, ())                                                   \
    X(int32_t, aoti_torch_dtype_float16, ())                                                   \
    X(int32_t, aoti_torch_dtype_bfloat16, ())                                                  \
    X(int32_t, aoti_torch_device_type_cpu, ())

/* Since torch 2.10; only ops with a list need them. */
#define LIST_FUNCTIONS(X)                                                                      \
    X(int32_t, torch_list_size, (void *, size_t *))                                            \
    X(int32_t, torch_list_get_item, (void *, size_t, Word *))                                  \
    X(int32_t, torch_delete_list, (void *))

/* Since torch 2.10; without them kernels run on the package's own threads. */
#define THREAD_FUNCTIONS(X)                                                                    \
    X(int32_t, torch_get_num_threads, (uint32_t *))                                            \
    X(int32_t, torch_parallel_for,                                                             \
      (int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void *), void *))

/* Since torch 2.11; without it outputs are where torch puts them. */
#define MEMORY_FUNCTIONS(X)                                                                    \
    X(int32_t, aoti_torch_layout_strided, ())                                                  \
    X(int32_t, torch_from_blob,                                                                \
      (void *, int64_t, const int64_t *, const int64_t *, int64_t, int32_t, int32_t, int32_t,  \
       void **, int32_t, const uint8_t *, int64_t, void (*)(void *, void *), void *))

#define DECLARE(result, name, arguments) result(*name) arguments = nullptr;
FUNCTIONS(DECLARE)
LIST_FUNCTIONS(DECLARE)
THREAD_FUNCTIONS(DECLARE)
MEMORY_FUNCTIONS(DECLARE)

/* The first function of a table that torch lacks, or NULL. */
const char *find_functions(void *torch) {
#define FIND(result, name, arguments)                                      \
    name = reinterpret_cast<result(*) arguments>(dlsym(torch, #name));     \
    if (name == nullptr) return #name;
    FUNCTIONS(FIND)
    return nullptr;
}

const char *find_list_functions(void *torch) {
    LIST_FUNCTIONS(FIND)
    return nullptr;
}

const char *find_thread_functions(void *torch) {
    THREAD_FUNCTIONS(FIND)
    return nullptr;
}

const char *find_memory_functions(void *torch) {
    MEMORY_FUNCTIONS(FIND)
    return nullptr;
}

struct Tensor { /* owns a handle */
    void *handle = nullptr;
    Tensor() = default;
    Tensor(const Tensor &) = delete;
    ~Tensor() {
        if (handle != nullptr) aoti_torch_delete_tensor_object(handle);
    }
};

struct List { /* owns a handle */
    void *handle = nullptr;
    List() = default;
    List(const List &) = delete;
    ~List() {
        if (handle != nullptr) torch_delete_list(handle);
    }
};

struct Scratch { /* owns memory */
    void *memory = nullptr;
    Scratch() = default;
    Scratch(const Scratch &) = delete;
    ~Scratch() { free(memory); }
};

}  // namespace
#endif
