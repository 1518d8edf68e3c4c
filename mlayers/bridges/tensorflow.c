/* SPDX-License-Identifier: Apache-2.0
 *
 * TensorFlow's side of a call: one TF op, MlayersCall, that runs any kernel by its name.
 *
 * It speaks TensorFlow's C API and needs no header and no library of it to build: the functions are
 * looked up in the libtensorflow_framework that the process has loaded. A constructor registers the
 * op, because tf.load_op_library(path) makes wrappers for what registers while it opens the
 * library; mlayers_start then gives the kernels, or says what went wrong.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"

/* --- the part of TensorFlow's C API that is used: tensorflow/c/{kernels,ops,tf_tensor}.h --- */

typedef struct TF_Status TF_Status;
typedef struct TF_Tensor TF_Tensor;
typedef struct TF_OpDefinitionBuilder TF_OpDefinitionBuilder;
typedef struct TF_KernelBuilder TF_KernelBuilder;
typedef struct TF_OpKernelConstruction TF_OpKernelConstruction;
typedef struct TF_OpKernelContext TF_OpKernelContext;
typedef struct TF_ShapeInferenceContext TF_ShapeInferenceContext;

enum { TF_FLOAT = 1, TF_DOUBLE = 2, TF_BFLOAT16 = 14, TF_HALF = 19 };
enum { TF_OK = 0, TF_INVALID_ARGUMENT = 3, TF_RESOURCE_EXHAUSTED = 8, TF_FAILED_PRECONDITION = 9 };
enum { TF_MAX_RANK = 254 };

/* clang-format off */
#define TF_FUNCTIONS(X)                                                                            \
    X(TF_Status *, NewStatus, (void))                                                              \
    X(void, DeleteStatus, (TF_Status *))                                                           \
    X(void, SetStatus, (TF_Status *, int code, const char *message))                               \
    X(int, GetCode, (const TF_Status *))                                                           \
    X(const char *, Message, (const TF_Status *))                                                  \
    X(TF_OpDefinitionBuilder *, NewOpDefinitionBuilder, (const char *name))                        \
    X(void, OpDefinitionBuilderAddAttr, (TF_OpDefinitionBuilder *, const char *))                  \
    X(void, OpDefinitionBuilderAddInput, (TF_OpDefinitionBuilder *, const char *))                 \
    X(void, OpDefinitionBuilderAddOutput, (TF_OpDefinitionBuilder *, const char *))                \
    X(void, OpDefinitionBuilderSetShapeInferenceFunction,                                          \
      (TF_OpDefinitionBuilder *, void (*)(TF_ShapeInferenceContext *, TF_Status *)))               \
    X(void, RegisterOpDefinition, (TF_OpDefinitionBuilder *, TF_Status *))                         \
    X(void, ShapeInferenceContextSetUnknownShape, (TF_ShapeInferenceContext *, TF_Status *))       \
    X(TF_KernelBuilder *, NewKernelBuilder,                                                        \
      (const char *op, const char *device, void *(*create)(TF_OpKernelConstruction *),             \
       void (*compute)(void *, TF_OpKernelContext *), void (*destroy)(void *)))                    \
    X(void, RegisterKernelBuilder, (const char *name, TF_KernelBuilder *, TF_Status *))            \
    X(void, OpKernelConstruction_GetAttrSize,                                                      \
      (TF_OpKernelConstruction *, const char *, int32_t *list, int32_t *total, TF_Status *))       \
    X(void, OpKernelConstruction_GetAttrString,                                                    \
      (TF_OpKernelConstruction *, const char *, char *, size_t, TF_Status *))                      \
    X(void, OpKernelConstruction_GetAttrInt64List,                                                 \
      (TF_OpKernelConstruction *, const char *, int64_t *, int, TF_Status *))                      \
    X(void, OpKernelConstruction_Failure, (TF_OpKernelConstruction *, TF_Status *))                \
    X(void, OpKernelContext_Failure, (TF_OpKernelContext *, TF_Status *))                          \
    X(int, NumInputs, (TF_OpKernelContext *))                                                      \
    X(int, NumOutputs, (TF_OpKernelContext *))                                                     \
    X(void, GetInput, (TF_OpKernelContext *, int, TF_Tensor **, TF_Status *))                      \
    X(TF_Tensor *, AllocateOutput,                                                                 \
      (TF_OpKernelContext *, int, int dtype, const int64_t *shape, int rank, size_t bytes,         \
       TF_Status *))                                                                               \
    X(int, TensorType, (const TF_Tensor *))                                                        \
    X(int, NumDims, (const TF_Tensor *))                                                           \
    X(int64_t, Dim, (const TF_Tensor *, int))                                                      \
    X(void *, TensorData, (const TF_Tensor *))                                                     \
    X(void, DeleteTensor, (TF_Tensor *))
/* clang-format on */

static struct {
#define DECLARE(result, name, arguments) result(*name) arguments;
    TF_FUNCTIONS(DECLARE)
#undef DECLARE
} tf; /* tf.GetInput is TF_GetInput */

static const mlayers_runtime *runtime; /* set by mlayers_start */
static char failure[512];              /* why the constructor could not register the op */

/* --- a kernel: one node of a graph, or one entry of the eager cache --- */

typedef struct {
    const mlayers_op *op;
    int64_t *ints;
    double *floats;
    int32_t n_ints, n_floats;
} Kernel;

static int failed(const TF_Status *status) { return tf.GetCode(status) != TF_OK; }

/* A list attribute in memory of its own, which the caller frees; NULL where it fails. */
static void *read_list(TF_OpKernelConstruction *context, const char *name, int32_t *length,
                       TF_Status *status) {
    int32_t total = 0;
    tf.OpKernelConstruction_GetAttrSize(context, name, length, &total, status);
    if (failed(status)) return NULL;
    int64_t *list = malloc(sizeof *list * ((size_t)*length + 1));
    if (list == NULL)
        tf.SetStatus(status, TF_RESOURCE_EXHAUSTED, "MlayersCall: no memory for its attributes");
    else if (*length > 0)
        tf.OpKernelConstruction_GetAttrInt64List(context, name, list, *length, status);
    return list;
}

static void find_op(Kernel *kernel, TF_OpKernelConstruction *context, TF_Status *status) {
    char name[128], words[256];
    int32_t list = 0, length = 0;
    tf.OpKernelConstruction_GetAttrSize(context, "op", &list, &length, status);
    if (failed(status)) return;
    if (length < 0 || (size_t)length > sizeof name) length = sizeof name;
    tf.OpKernelConstruction_GetAttrString(context, "op", name, sizeof name, status);
    if (failed(status)) return;
    if (runtime == NULL) {
        tf.SetStatus(status, TF_FAILED_PRECONDITION, "MlayersCall: import mlayers to run this op");
        return;
    }
    kernel->op = runtime->find(name, (size_t)length);
    if (kernel->op == NULL) {
        snprintf(words, sizeof words, "MlayersCall: this version of mlayers has no op '%.*s'",
                 (int)length, name);
        tf.SetStatus(status, TF_INVALID_ARGUMENT, words);
    }
}

static void *create(TF_OpKernelConstruction *context) {
    TF_Status *status = tf.NewStatus();
    Kernel *kernel = calloc(1, sizeof *kernel);
    if (kernel == NULL)
        tf.SetStatus(status, TF_RESOURCE_EXHAUSTED, "MlayersCall: no memory for a kernel");
    if (!failed(status)) find_op(kernel, context, status);
    if (!failed(status)) kernel->ints = read_list(context, "ints", &kernel->n_ints, status);
    /* TF's float attributes have 32 bits; `floats` holds the bit patterns of doubles. */
    if (!failed(status)) kernel->floats = read_list(context, "floats", &kernel->n_floats, status);
    if (failed(status)) tf.OpKernelConstruction_Failure(context, status);
    tf.DeleteStatus(status);
    return kernel;
}

static void destroy(void *self) { /* also called where create failed */
    Kernel *kernel = self;
    if (kernel == NULL) return;
    free(kernel->ints);
    free(kernel->floats);
    free(kernel);
}

/* --- a call --- */

/* By dtype of call.h. */
static const int tf_types[] = {TF_FLOAT, TF_DOUBLE, TF_HALF, TF_BFLOAT16};
static const size_t widths[] = {4, 8, 2, 2};

typedef struct {
    mlayers_call call;
    TF_Tensor *inputs[MLAYERS_MAX_ARRAYS]; /* owned, as are outputs */
    TF_Tensor *outputs[MLAYERS_MAX_ARRAYS];
    int64_t shapes[MLAYERS_MAX_ARRAYS][TF_MAX_RANK];
} Frame;

static void take_input(Frame *frame, int i, TF_OpKernelContext *context, TF_Status *status) {
    tf.GetInput(context, i, &frame->inputs[i], status);
    if (failed(status)) return;
    const TF_Tensor *tensor = frame->inputs[i];
    mlayers_array *array = &frame->call.inputs[i];
    array->data = tf.TensorData(tensor);
    array->rank = tf.NumDims(tensor);
    array->shape = frame->shapes[i];
    array->size = 1;
    for (int axis = 0; axis < array->rank; axis++) {
        frame->shapes[i][axis] = tf.Dim(tensor, axis);
        array->size *= frame->shapes[i][axis];
    }
    /* TensorFlow has checked T: one dtype for all, and one of these. */
    while (tf_types[frame->call.dtype] != tf.TensorType(tensor)) frame->call.dtype++;
}

static void make_output(Frame *frame, int i, TF_OpKernelContext *context, TF_Status *status) {
    mlayers_array *array = &frame->call.outputs[i];
    size_t bytes = (size_t)array->size * widths[frame->call.dtype];
    frame->outputs[i] = tf.AllocateOutput(context, i, tf_types[frame->call.dtype], array->shape,
                                          (int)array->rank, bytes, status);
    if (!failed(status)) array->data = tf.TensorData(frame->outputs[i]);
}

static void run(const Kernel *kernel, Frame *frame, TF_OpKernelContext *context,
                TF_Status *status) {
    mlayers_call *call = &frame->call;
    int n_inputs = tf.NumInputs(context), n_outputs = tf.NumOutputs(context);
    if (n_inputs > MLAYERS_MAX_ARRAYS || n_outputs > MLAYERS_MAX_ARRAYS) {
        tf.SetStatus(status, TF_INVALID_ARGUMENT, "MlayersCall: too many inputs or outputs");
        return;
    }
    call->n_inputs = n_inputs;
    call->ints = kernel->ints;
    call->n_ints = kernel->n_ints;
    call->floats = kernel->floats;
    call->n_floats = kernel->n_floats;
    for (int i = 0; i < n_inputs && !failed(status); i++) take_input(frame, i, context, status);
    if (failed(status)) return;
    if (!kernel->op->shapes(call) || call->n_outputs != n_outputs) {
        char words[2048];
        runtime->explain(kernel->op, call, words, sizeof words);
        tf.SetStatus(status, TF_INVALID_ARGUMENT, words);
        return;
    }
    for (int i = 0; i < n_outputs && !failed(status); i++) make_output(frame, i, context, status);
    if (!failed(status)) runtime->run(kernel->op, call);
}

static void compute(void *self, TF_OpKernelContext *context) {
    TF_Status *status = tf.NewStatus();
    Frame frame; /* 16 KB, of which a call touches a few lines */
    memset(&frame.call, 0, sizeof frame.call);
    memset(frame.inputs, 0, sizeof frame.inputs);
    memset(frame.outputs, 0, sizeof frame.outputs);
    run(self, &frame, context, status);
    if (failed(status)) tf.OpKernelContext_Failure(context, status);
    for (int i = 0; i < MLAYERS_MAX_ARRAYS; i++) {
        if (frame.inputs[i] != NULL) tf.DeleteTensor(frame.inputs[i]);
        if (frame.outputs[i] != NULL) tf.DeleteTensor(frame.outputs[i]);
    }
    tf.DeleteStatus(status);
}

/* --- registration --- */

/* The C API cannot read integer attributes here: the Python half sets the shapes it knows. */
static void infer_shapes(TF_ShapeInferenceContext *context, TF_Status *status) {
    tf.ShapeInferenceContextSetUnknownShape(context, status);
}

static int find_functions(void) {
    void *library = dlopen("libtensorflow_framework.so.2", RTLD_NOLOAD | RTLD_NOW);
    if (library == NULL)
        library = dlopen("libtensorflow_framework.2.dylib", RTLD_NOLOAD | RTLD_NOW);
    if (library == NULL) {
        snprintf(failure, sizeof failure, "libtensorflow_framework.so.2 is not loaded");
        return 0;
    }
#define FIND(result, name, arguments)                                                              \
    if ((*(void **)&tf.name = dlsym(library, "TF_" #name)) == NULL) {                              \
        snprintf(failure, sizeof failure, "this TensorFlow has no function TF_" #name);            \
        return 0;                                                                                  \
    }
    TF_FUNCTIONS(FIND)
#undef FIND
    return 1;
}

__attribute__((constructor)) static void register_op(void) {
    if (!find_functions()) return;
    TF_Status *status = tf.NewStatus();
    TF_OpDefinitionBuilder *op = tf.NewOpDefinitionBuilder("MlayersCall");
    tf.OpDefinitionBuilderAddAttr(op, "op: string");
    tf.OpDefinitionBuilderAddAttr(op, "ints: list(int)");
    tf.OpDefinitionBuilderAddAttr(op, "floats: list(int)");
    tf.OpDefinitionBuilderAddAttr(op, "T: {float, double, half, bfloat16}");
    tf.OpDefinitionBuilderAddAttr(op, "N: int >= 1");
    tf.OpDefinitionBuilderAddAttr(op, "M: int >= 1");
    tf.OpDefinitionBuilderAddInput(op, "inputs: N * T");
    tf.OpDefinitionBuilderAddOutput(op, "outputs: M * T");
    tf.OpDefinitionBuilderSetShapeInferenceFunction(op, infer_shapes);
    tf.RegisterOpDefinition(op, status);
    if (!failed(status)) {
        TF_KernelBuilder *kernel =
            tf.NewKernelBuilder("MlayersCall", "CPU", create, compute, destroy);
        tf.RegisterKernelBuilder("MlayersCall", kernel, status);
    }
    if (failed(status))
        snprintf(failure, sizeof failure, "TensorFlow did not take the op: %s", tf.Message(status));
    tf.DeleteStatus(status);
}

/* Gives the kernels. 1, or 0 and in `why` the reason. */
__attribute__((visibility("default"))) int mlayers_start(const mlayers_runtime *kernels, char *why,
                                                         size_t room) {
    if (failure[0] != 0) {
        snprintf(why, room, "%s", failure);
        return 0;
    }
    runtime = kernels;
    return 1;
}
