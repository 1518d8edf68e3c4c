/* SPDX-License-Identifier: Apache-2.0
 *
 * torch's way to a kernel: each op of torch.py gets its CPU kernel here, in C++ with neither Python
 * nor its GIL. Knows no op by name.
 *
 * Built without torch: its functions are found at run time (torch_abi.h).
 *
 * torch calls a stable kernel with the arguments on a stack of 64-bit words and says no more, in
 * particular not which op is meant. So each op gets a function of its own, stamped out of one
 * template: kernel<i> serves registered[i].
 */
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <pthread.h>

#include "call.h"
#include "torch_abi.h"
#include "torch_memory.h"

#define VISIBLE extern "C" __attribute__((visibility("default")))

#ifdef __APPLE__
#define LIBTORCH "libtorch_cpu.dylib"
#else
#define LIBTORCH "libtorch_cpu.so"
#endif

namespace {

const mlayers_runtime *runtime = nullptr;
void *library = nullptr;                      /* torch's handle for the namespace */
const char *missing_list_function = nullptr;  /* the first that this torch lacks */

/* --- what was registered --- */

struct Registered {
    const mlayers_op *op = nullptr;
    int32_t n_tensors = 0, n_ints = 0, n_floats = 0, n_outputs = 0;
    bool has_list = false;
};

constexpr size_t MAX_OPS = 256;  /* as in _call.pyx */
Registered registered[MAX_OPS];
size_t n_registered = 0;

/* --- one call --- */

constexpr size_t WIDTHS[] = {4, 8, 2, 2}; /* by dtype of call.h */

[[noreturn]] void fail(const mlayers_op *op, const char *format, ...) {
    char words[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    throw std::runtime_error(std::string(op->name) + ": " + words);
}

/* A dtype of call.h, of a number of torch's ScalarType; or -1. */
int32_t dtype_of(int32_t found) {
    if (found == aoti_torch_dtype_float32()) return MLAYERS_FLOAT32;
    if (found == aoti_torch_dtype_float64()) return MLAYERS_FLOAT64;
    if (found == aoti_torch_dtype_float16()) return MLAYERS_FLOAT16;
    if (found == aoti_torch_dtype_bfloat16()) return MLAYERS_BFLOAT16;
    return -1;
}

bool is_contiguous(const mlayers_array &array, const int64_t *strides) {
    int64_t expected = 1;
    if (array.size == 0) return true;
    for (int64_t axis = array.rank - 1; axis >= 0; axis--) {
        if (array.shape[axis] != 1 && strides[axis] != expected) return false;
        expected *= array.shape[axis];
    }
    return true;
}

/* Copies elements from anywhere, unaligned too, one after the other; returns where the next goes. */
template <typename Element>
char *gather(char *to, const char *from, int64_t rank, const int64_t *shape, const int64_t *strides) {
    constexpr int64_t size = sizeof(Element);
    if (rank == 0) {
        memcpy(to, from, size);
        return to + size;
    }
    for (int64_t i = 0; i < shape[0]; i++, from += strides[0] * size) {
        if (rank > 1) {
            to = gather<Element>(to, from, rank - 1, shape + 1, strides + 1);
        } else {
            memcpy(to, from, size);
            to += size;
        }
    }
    return to;
}

struct Arguments { /* takes what lies on the stack, and gives it back whatever happens */
    Tensor tensors[MLAYERS_MAX_ARRAYS];
    Scratch scratch[MLAYERS_MAX_ARRAYS];
    List list;
    std::vector<int64_t> ints;
    std::vector<double> floats;

    Arguments(const Registered &entry, const Word *stack) {
        const Word *numbers = stack + entry.n_tensors;
        for (int32_t i = 0; i < entry.n_tensors; i++)
            tensors[i].handle = reinterpret_cast<void *>(stack[i]);
        if (entry.has_list)
            list.handle = reinterpret_cast<void *>(numbers[entry.n_ints + entry.n_floats]);
    }

    void read_numbers(const Registered &entry, const Word *stack) {
        const Word *numbers = stack + entry.n_tensors;
        size_t length = 0;
        if (entry.has_list && torch_list_size(list.handle, &length))
            fail(entry.op, "torch did not say how long a list is");
        ints.resize(entry.n_ints + length);
        floats.resize(entry.n_floats);
        for (int32_t i = 0; i < entry.n_ints; i++) ints[i] = static_cast<int64_t>(numbers[i]);
        for (int32_t i = 0; i < entry.n_floats; i++)
            memcpy(&floats[i], &numbers[entry.n_ints + i], sizeof(double));
        for (size_t i = 0; i < length; i++) {
            Word item;
            if (torch_list_get_item(list.handle, i, &item))
                fail(entry.op, "torch did not give element %zu of a list", i);
            ints[entry.n_ints + i] = static_cast<int64_t>(item);
        }
    }

    /* Lays down input i, in C order and aligned, in scratch memory if need be. */
    void read_tensor(const Registered &entry, int32_t i, int32_t dtype, mlayers_array &array) {
        void *tensor = tensors[i].handle, *data = nullptr;
        int64_t *shape = nullptr, *strides = nullptr;
        int32_t found = -1, device = -1;
        if (aoti_torch_get_dtype(tensor, &found) || aoti_torch_get_device_type(tensor, &device) ||
            aoti_torch_get_dim(tensor, &array.rank) || aoti_torch_get_sizes(tensor, &shape) ||
            aoti_torch_get_strides(tensor, &strides) || aoti_torch_get_data_ptr(tensor, &data))
            fail(entry.op, "torch did not describe input %d, which has no memory of its own", i);
        if (device != aoti_torch_device_type_cpu())
            fail(entry.op, "input %d must be on the CPU. Received: a device of type %d of torch's "
                 "DeviceType", i, device);
        if (found != dtype)
            fail(entry.op, "inputs must have one dtype. Received: input %d of number %d of torch's "
                 "ScalarType, after number %d", i, found, dtype);
        array.shape = shape;
        array.data = data;
        array.size = 1;
        for (int64_t axis = 0; axis < array.rank; axis++) array.size *= shape[axis];
        size_t width = WIDTHS[dtype_of(dtype)];
        bool aligned = reinterpret_cast<uintptr_t>(data) % width == 0;
        if (array.size == 0 || (aligned && is_contiguous(array, strides))) return;
        char *memory = static_cast<char *>(malloc(array.size * width));
        if (memory == nullptr) throw std::bad_alloc();
        scratch[i].memory = array.data = memory;
        const char *from = static_cast<const char *>(data);
        if (width == sizeof(double))
            gather<double>(memory, from, array.rank, shape, strides);
        else if (width == sizeof(float))
            gather<float>(memory, from, array.rank, shape, strides);
        else
            gather<uint16_t>(memory, from, array.rank, shape, strides);
    }
};

bool keeps_memory = false; /* of large outputs, for the next (torch_memory.h) */

void allocate(const mlayers_op *op, mlayers_array &array, int32_t dtype, Tensor &output) {
    int32_t cpu = aoti_torch_device_type_cpu();
    std::vector<int64_t> strides(array.rank);
    int64_t stride = 1;
    for (int64_t axis = array.rank - 1; axis >= 0; axis--) {
        strides[axis] = stride;
        stride *= array.shape[axis] > 0 ? array.shape[axis] : 1;
    }
    size_t bytes = array.size * WIDTHS[dtype_of(dtype)];
    array.data = keeps_memory ? take_block(bytes) : nullptr;
    if (array.data != nullptr) {
        void *wanted = reinterpret_cast<void *>(bytes);
        if (torch_from_blob(array.data, array.rank, array.shape, strides.data(), 0, dtype, cpu, -1,
                            &output.handle, aoti_torch_layout_strided(), nullptr, 0, give_block,
                            wanted)) {
            give_block(array.data, wanted);
            fail(op, "torch did not take memory for an output");
        }
        return;
    }
    if (aoti_torch_empty_strided(array.rank, array.shape, strides.data(), dtype, cpu, -1,
                                 &output.handle) ||
        aoti_torch_get_data_ptr(output.handle, &array.data))
        fail(op, "out of memory: torch has none for an output of %lld elements",
             static_cast<long long>(array.size));
}

/* --- threads --- */

/* Whether kernels run on torch's threads, as its own ops do: two teams on the same cores fight, and
 * torch's is the one that is awake between torch's ops. */
bool on_torchs_threads = false;

void in_torchs_threads(const mlayers_call *call, int64_t rows, mlayers_body body) {
    mlayers_job job;
    mlayers_begin(&job, call, rows, body);
    auto work = [](int64_t thread, int64_t, void *given) {
        mlayers_work_on(static_cast<mlayers_job *>(given), thread);
    };
    torch_parallel_for(0, call->threads, 1, work, &job);
    mlayers_work_on(&job, 0); /* what is left if torch_parallel_for failed: else nothing */
}

void run(const mlayers_op *op, mlayers_call *call) {
    uint32_t threads = 0;
    if (on_torchs_threads && torch_get_num_threads(&threads) == 0)
        runtime->run_on(op, call, in_torchs_threads, static_cast<int32_t>(threads));
    else
        runtime->run(op, call);
}

void compute(const Registered &entry, Word *stack) {
    const mlayers_op *op = entry.op;
    Arguments arguments(entry, stack);
    Tensor outputs[MLAYERS_MAX_ARRAYS];
    mlayers_call call;
    int32_t dtype = -1;

    if (aoti_torch_get_dtype(arguments.tensors[0].handle, &dtype))
        fail(op, "torch did not tell the dtype of input 0");
    call.dtype = dtype_of(dtype);
    if (call.dtype < 0)
        fail(op, "input 0 must have dtype float16, bfloat16, float32 or float64. Received: number "
             "%d of torch's ScalarType", dtype);
    arguments.read_numbers(entry, stack);
    for (int32_t i = 0; i < entry.n_tensors; i++)
        arguments.read_tensor(entry, i, dtype, call.inputs[i]);
    call.n_inputs = entry.n_tensors;
    call.n_outputs = 0;
    call.ints = arguments.ints.data();
    call.n_ints = static_cast<int64_t>(arguments.ints.size());
    call.floats = arguments.floats.data();
    call.n_floats = static_cast<int64_t>(arguments.floats.size());
    if (!op->shapes(&call)) {
        char words[1024];
        runtime->explain(op, &call, words, sizeof words);
        throw std::runtime_error(words);
    }
    if (call.n_outputs != entry.n_outputs)
        fail(op, "the kernel has %d outputs, not %d", call.n_outputs, entry.n_outputs);
    for (int32_t i = 0; i < call.n_outputs; i++) allocate(op, call.outputs[i], dtype, outputs[i]);
    run(op, &call);
    for (int32_t i = 0; i < call.n_outputs; i++)
        stack[i] = reinterpret_cast<Word>(std::exchange(outputs[i].handle, nullptr));
}

/* --- one function per op --- */

template <size_t i>
void kernel(Word *stack, Word, Word) {
    try {
        compute(registered[i], stack);
    } catch (const std::bad_alloc &) {
        fail(registered[i].op, "out of memory");
    }
}

template <size_t... i>
Kernel kernel_at(size_t index, std::index_sequence<i...>) {
    static constexpr Kernel kernels[] = {kernel<i>...};
    return kernels[index];
}

}  // namespace

/* --- for torch.py --- */

/* Find torch and open the namespace; 1, or 0 with a sentence in `why`. */
VISIBLE int mlayers_start(const mlayers_runtime *given, char *why, size_t room) {
    void *torch = dlopen(LIBTORCH, RTLD_NOLOAD | RTLD_NOW);
    if (torch == nullptr) {
        snprintf(why, room, LIBTORCH " is not loaded");
        return 0;
    }
    const char *missing = find_functions(torch);
    if (missing != nullptr) {
        snprintf(why, room, "this torch has no function %s", missing);
        return 0;
    }
    missing_list_function = find_list_functions(torch);
    keeps_memory = find_memory_functions(torch) == nullptr;
    on_torchs_threads = find_thread_functions(torch) == nullptr;
    /* Of OpenMP's threads none is left in a child, which nobody tells it: it would wait for ever. */
    pthread_atfork(nullptr, nullptr, [] { on_torchs_threads = false; });
    if (aoti_torch_library_init_impl("mlayers", "CPU", __FILE__, __LINE__, &library)) {
        snprintf(why, room, "torch did not open the namespace 'mlayers' for CPU kernels");
        return 0;
    }
    runtime = given;
    return 1;
}

/* Give a torch op its kernel, the core's op of the same name; 1, or 0 with a sentence in `why`. */
VISIBLE int mlayers_torch_register(const char *name, int32_t n_tensors, int32_t n_ints,
                                   int32_t n_floats, int32_t has_list, int32_t n_outputs,
                                   char *why, size_t room) {
    const mlayers_op *op = runtime->find(name, strlen(name));
    if (op == nullptr) {
        snprintf(why, room, "%s: there is no kernel of that name", name);
    } else if (n_registered == MAX_OPS) {
        snprintf(why, room, "%s: more than %zu ops", name, MAX_OPS);
    } else if (n_tensors < 1 || n_tensors > MLAYERS_MAX_ARRAYS || n_outputs > MLAYERS_MAX_ARRAYS) {
        snprintf(why, room, "%s: a kernel takes 1 to %d arrays", name, MLAYERS_MAX_ARRAYS);
    } else if (has_list && missing_list_function != nullptr) {
        snprintf(why, room, "%s: this torch has no function %s", name, missing_list_function);
    } else {
        Registered &entry = registered[n_registered];
        entry.op = op;
        entry.n_tensors = n_tensors;
        entry.n_ints = n_ints;
        entry.n_floats = n_floats;
        entry.n_outputs = n_outputs;
        entry.has_list = has_list != 0;
        Kernel function = kernel_at(n_registered, std::make_index_sequence<MAX_OPS>());
        if (!aoti_torch_library_impl(library, op->name, function)) {
            n_registered++;
            return 1;
        }
        snprintf(why, room, "%s: torch did not take the kernel", name);
    }
    return 0;
}
