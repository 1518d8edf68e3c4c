// SPDX-License-Identifier: Apache-2.0
//
// How the threads of a block take turns; emulator.h says why it is done so and holds the rest.
#ifndef MLAYERS_EMULATOR_THREADS_H
#define MLAYERS_EMULATOR_THREADS_H

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include <type_traits>
#include <utility>

struct uint3 {
    unsigned x, y, z;
};
static uint3 threadIdx, blockIdx, blockDim, gridDim;
static constexpr int warpSize = 32;

namespace emulator {

// --- fibers: the one door to what depends on the processor ---
//
// prepare() makes a context that begins in `entry`, which never returns; change() stops here, which
// is `from`, and goes on where `to` stopped. Only what a call preserves needs to be kept.

#if !defined(MLAYERS_EMULATED_UCONTEXT) && (defined(__x86_64__) || defined(__aarch64__))
struct Context { void** stack_pointer; };
extern "C" void mlayers_change(void*** from, void** to);
#if defined(__x86_64__)
asm(R"(.pushsection .text
mlayers_change:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi); movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
    .popsection)");
// In words: six registers, the address, and one for the alignment that a called function has.
static constexpr int FRAME = 8, RETURN_ADDRESS = 6;
#else
asm(R"(.pushsection .text
mlayers_change:
    sub sp, sp, #160
    stp x19, x20, [sp]; stp x21, x22, [sp, #16]; stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]; stp x27, x28, [sp, #64]; stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]; stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]; stp d14, d15, [sp, #144]
    mov x9, sp; str x9, [x0]; mov sp, x1
    ldp x19, x20, [sp]; ldp x21, x22, [sp, #16]; ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]; ldp x27, x28, [sp, #64]; ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]; ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]; ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .popsection)");
static constexpr int FRAME = 20, RETURN_ADDRESS = 11;  // x30 holds it
#endif
static void prepare(Context& context, char* stack, size_t bytes, void (*entry)()) {
    context.stack_pointer = (void**)(stack + bytes) - FRAME;
    memset(context.stack_pointer, 0, FRAME * sizeof(void*));
    context.stack_pointer[RETURN_ADDRESS] = (void*)entry;
}
static void change(Context& from, Context& to) {
    mlayers_change(&from.stack_pointer, to.stack_pointer);
}
#else
typedef ucontext_t Context;
static void prepare(Context& context, char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}
static void change(Context& from, Context& to) { swapcontext(&from, &to); }
#endif

// --- what there is ---

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, MISALIGNED = 716, LAUNCH_FAILED = 719 };  // CUresult
enum Order { FORWARD, REVERSE, RANDOM };
enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, FINISHED };

static constexpr int MAX_THREADS = 1024;
static constexpr size_t STACK = 64 << 10, MAX_SHARED = 48 << 10, GUARD = 256;
static constexpr unsigned long long CANARY = 0x5a5aa5a55a5aa5a5, ALL_ONES = ~0ull;

// What all libraries of a process share: they join the driver's.
struct Session {
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  // held during a launch
    int order = FORWARD;
    unsigned seed = 0;
    char* stacks = nullptr;  // allocated at the first launch, and one in front that may overflow
    int code = 0;            // of the last error, and a sentence about it
    char error[512] = "";
};

struct Kernel {
    const char* name;
    void (*call)(void** params);
    int parameters, max_threads;
};

struct Thread {
    Context context;
    State state;
    uint3 index;
    int line;                            // where it waits
    unsigned mask;                       // with which lanes
    int source;                          // whose value it wants
    unsigned long long given, received;  // its own value, the other's
    unsigned votes;                      // which lanes gave something other than zero
};

static Session own_session, *session = &own_session;
static const Kernel* kernel;  // of this launch, as the next four
static void** arguments;
static int count;    // threads of a block
static int failure;  // the code of its error
static unsigned long long dice;
static Thread threads[MAX_THREADS], *current;
static Context scheduler;
alignas(256) static char dynamic_shared[MAX_SHARED + GUARD];
// The linker makes these two, if there is something in between.
extern "C" __attribute__((visibility("hidden"))) char __start_mlayers_shared[];
extern "C" __attribute__((visibility("hidden"))) char __stop_mlayers_shared[];
__attribute__((section("mlayers_shared"), used)) static char something;

// --- errors: the first one of a launch counts ---

__attribute__((format(printf, 2, 3))) static int fail(int code, const char* format, ...) {
    if (failure) return failure;
    session->code = failure = code;
    const size_t size = sizeof session->error;
    const int length = snprintf(session->error, size, "kernel %.99s, block (%u, %u, %u): ",
                                kernel->name, blockIdx.x, blockIdx.y, blockIdx.z);
    va_list values;
    va_start(values, format);
    vsnprintf(session->error + length, size - length, format, values);
    va_end(values);
    return code;
}

// From a thread to the scheduler. After an error it never returns: threads must not own memory.
static void wait(State state, int line) {
    current->state = state;
    current->line = line;
    change(current->context, scheduler);
}

static char* stack_of(Thread* thread) { return session->stacks + (thread - threads + 1) * STACK; }

static void begin_thread() {
    kernel->call(arguments);
    wait(FINISHED, 0);
}

// --- a warp ---

static int lane() { return int(current - threads) % warpSize; }

// Waits for the lanes in the mask; then `received` and `votes` hold what they gave.
static const Thread& meet(unsigned mask, unsigned long long given, int source, int line) {
    if (!(mask >> lane() & 1)) {
        fail(LAUNCH_FAILED, "lane %d is outside its own mask %#x, line %d", lane(), mask, line);
        wait(FINISHED, line);
    }
    current->mask = mask;
    current->given = given;
    current->source = source;
    wait(AT_WARP_BARRIER, line);
    return *current;
}

template <class T>
static T exchange(unsigned mask, T value, int source, int width, int line) {
    static_assert(std::is_arithmetic<T>::value && sizeof(T) <= 8, "not a number");
    if (width < 1 || width > warpSize || (width & (width - 1))) {
        fail(LAUNCH_FAILED, "a shuffle of width %d, line %d", width, line);
        wait(FINISHED, line);
    }
    unsigned long long bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = meet(mask, bits, source, line).received;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void open_for(Thread* warp, unsigned group) {
    unsigned votes = 0;
    for (int i = 0; i < warpSize; i++)
        if (group >> i & 1 && warp[i].given) votes |= 1u << i;
    for (int i = 0; i < warpSize; i++) {
        if (!(group >> i & 1)) continue;
        const int from = warp[i].source;
        warp[i].received = group >> from & 1 ? warp[from].given : ALL_ONES;
        warp[i].votes = votes;
        warp[i].state = READY;
    }
}

// Lanes go on when all those in their mask wait with the same mask, or have finished.
static bool open_warp_barriers(Thread* warp, int lanes) {
    bool opened = false;
    for (int i = 0; i < lanes; i++) {
        if (warp[i].state != AT_WARP_BARRIER) continue;
        unsigned group = 0, absent = lanes < warpSize ? ~0u << lanes : 0;
        for (int j = 0; j < lanes; j++) {
            if (warp[j].state == FINISHED) absent |= 1u << j;
            if (warp[j].state == AT_WARP_BARRIER && warp[j].mask == warp[i].mask) group |= 1u << j;
        }
        if (warp[i].mask & ~group & ~absent) continue;
        open_for(warp, group);
        opened = true;
    }
    return opened;
}

// In which order n take turns; a random one is new each time.
static void arrange(int* numbers, int n) {
    for (int i = 0; i < n; i++) numbers[i] = session->order == REVERSE ? n - 1 - i : i;
    for (int i = n - 1; session->order == RANDOM && i > 0; i--) {
        dice = dice * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(numbers[i], numbers[(dice >> 33) % (i + 1)]);
    }
}

static void run_warp(Thread* warp, int lanes) {
    int turns[warpSize];
    do {
        arrange(turns, lanes);
        for (int i = 0; i < lanes && !failure; i++) {
            current = warp + turns[i];
            if (current->state != READY) continue;
            threadIdx = current->index;
            change(scheduler, current->context);
            if (memcmp(stack_of(current), &CANARY, sizeof CANARY))
                fail(LAUNCH_FAILED, "a thread needs more than %zu bytes of stack", STACK);
        }
    } while (!failure && open_warp_barriers(warp, lanes));
}

// --- a block ---

// After every warp has run: lets all threads through the barrier, or says why it cannot.
static bool open_block_barrier() {
    int waiting = 0;
    const Thread* first = nullptr;
    for (int i = 0; i < count; i++) {
        const Thread& thread = threads[i];
        if (thread.state == AT_WARP_BARRIER) {
            fail(LAUNCH_FAILED, "thread %d waits on line %d for lanes of its mask %#x in vain", i,
                 thread.line, thread.mask);
            return false;
        }
        if (thread.state != AT_BLOCK_BARRIER) continue;
        waiting++;
        if (!first) first = &thread;
        if (thread.line != first->line)
            fail(LAUNCH_FAILED, "threads wait at different barriers, on lines %d and %d",
                 first->line, thread.line);
    }
    if (!waiting || failure) return false;
    if (waiting < count)
        fail(LAUNCH_FAILED, "a barrier that not every thread reaches: on line %d wait %d of %d",
             first->line, waiting, count);
    for (int i = 0; i < count; i++) threads[i].state = READY;
    return !failure;
}

static void run_block(size_t shared_bytes) {
    int turns[MAX_THREADS / warpSize];
    const int warps = (count + warpSize - 1) / warpSize;
    memset(__start_mlayers_shared, 0xff, __stop_mlayers_shared - __start_mlayers_shared);
    memset(dynamic_shared, 0xff, shared_bytes + GUARD);
    for (int i = 0; i < count; i++) {
        memcpy(stack_of(threads + i), &CANARY, sizeof CANARY);
        prepare(threads[i].context, stack_of(threads + i), STACK, begin_thread);
        threads[i].state = READY;
        threads[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y,
                            i / (blockDim.x * blockDim.y)};
    }
    do {
        arrange(turns, warps);
        for (int i = 0; i < warps && !failure; i++) {
            const int begin = turns[i] * warpSize;
            run_warp(threads + begin, count - begin < warpSize ? count - begin : warpSize);
        }
    } while (!failure && open_block_barrier());
    for (size_t i = 0; i < GUARD; i++)
        if (dynamic_shared[shared_bytes + i] != '\xff')
            fail(LAUNCH_FAILED, "a write %zu bytes after its dynamic shared memory", i);
}

}  // namespace emulator

#endif
