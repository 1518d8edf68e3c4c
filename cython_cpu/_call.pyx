# SPDX-License-Identifier: Apache-2.0
"""The kernels' common ground: their registry, the thread pool, and the way in for NumPy arrays.

`Prepared.run` fills `mlayers_call` from buffers, releases the GIL and calls; NumPy is not needed to
build it. The bridges, which are C, get the same registry and pool as a `mlayers_runtime` (call.h).
Knows no op by name.
"""
from call cimport (
    FLOAT32, MAX_ARRAYS, Array, Body, Call, Kernel, Op, Parallel, Runtime, Shapes,
)
from cpython.buffer cimport (
    PyBUF_FORMAT,
    PyBUF_ND,
    PyBUF_C_CONTIGUOUS,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, strdup, strlen, strncmp

cdef extern from "pool.h" nogil:
    int mlayers_get_num_threads()
    void mlayers_set_num_threads(int threads)
    void on_pool "mlayers_on_pool"(const Call*, int64_t, Body) noexcept
    void on_pool_alone "mlayers_on_pool_alone"(const Call*, int64_t, Body) noexcept

cdef extern from "memory.h" nogil:
    void prepare_outputs "mlayers_prepare_outputs"(Call*) noexcept

cdef extern from "isa.h":
    bint mlayers_can_run(const char* isa)

DTYPES = ("float32", "float64", "float16", "bfloat16")  # in the order of call.h


def can_run(str isa):
    """Whether this processor has the instructions of that name."""
    return bool(mlayers_can_run(isa.encode()))


# --- threads ---

def get_num_threads():
    """How many threads a call may use, the caller among them."""
    return mlayers_get_num_threads()


def set_num_threads(int threads):
    """Change it, for calls that start from now on."""
    mlayers_set_num_threads(threads)


# --- the registry ---

cdef enum:
    MAX_OPS = 256

cdef Op _ops[MAX_OPS]
cdef int _n_ops = 0


def register(str name, tuple functions):
    """Enter an op's kernel and shapes function (an entry of a module's KERNELS).

    An op that is known keeps its place, which bridges point to, and gets the new functions.
    """
    global _n_ops
    encoded = name.encode()
    kernel, shapes = functions
    cdef Op* known = <Op*> find(encoded, len(encoded))
    if known != NULL:
        known.kernel = <Kernel> PyCapsule_GetPointer(kernel, b"mlayers_kernel")
        known.shapes = <Shapes> PyCapsule_GetPointer(shapes, b"mlayers_shapes")
        return
    if _n_ops == MAX_OPS:
        raise RuntimeError(f"more than {MAX_OPS} ops")
    _ops[_n_ops].kernel = <Kernel> PyCapsule_GetPointer(kernel, b"mlayers_kernel")
    _ops[_n_ops].shapes = <Shapes> PyCapsule_GetPointer(shapes, b"mlayers_shapes")
    _ops[_n_ops].name = strdup(encoded)
    _n_ops += 1  # last, so that a thread without the GIL never finds half an op


cdef const Op* find(const char* name, size_t length) noexcept nogil:
    cdef int i
    for i in range(_n_ops):
        if strlen(_ops[i].name) == length and strncmp(_ops[i].name, name, length) == 0:
            return &_ops[i]
    return NULL


cdef void compute(const Op* op, Call* call) noexcept nogil:
    compute_on(op, call, on_pool, mlayers_get_num_threads())


cdef void compute_on(
    const Op* op, Call* call, Parallel parallel, int32_t threads
) noexcept nogil:
    call.threads = min(threads, mlayers_get_num_threads())
    call.parallel = parallel
    prepare_outputs(call)
    op.kernel(call)


# --- what a bridge gets ---

_explainer = None  # (op, dtype, shapes, ints, floats) -> str


def set_explainer(function):
    """What finds the words for an error; mlayers/bridges/native.py sets it."""
    global _explainer
    _explainer = function


cdef void explain(const Op* op, const Call* call, char* words, size_t room) noexcept with gil:
    cdef size_t length
    try:
        shapes = [
            tuple([call.inputs[i].shape[j] for j in range(call.inputs[i].rank)])
            for i in range(call.n_inputs)
        ]
        text = _explainer(
            op.name.decode(), DTYPES[call.dtype], shapes,
            [call.ints[i] for i in range(call.n_ints)],
            [call.floats[i] for i in range(call.n_floats)],
        )
    except Exception as error:  # there is no caller to raise to: the words go into the error
        text = f"{op.name.decode()}: the inputs do not fit ({type(error).__name__}: {error})"
    encoded = text.encode()
    length = min(<size_t> len(encoded), room - 1)
    memcpy(words, <const char*> encoded, length)
    words[length] = 0


cdef Runtime _runtime
_runtime.find = find
_runtime.run = compute
_runtime.run_on = compute_on
_runtime.explain = explain


def runtime_address():
    """Where the `mlayers_runtime` is, for a bridge's start function."""
    return <size_t> &_runtime


# --- NumPy ---

cdef class Prepared:
    """A registered op with its attributes, for C-contiguous arrays of one dtype of DTYPES.

    Half types come as uint16, because NumPy's buffers do not know bfloat16.
    """
    cdef const Op* op
    cdef int32_t dtype
    cdef char format  # of the buffers
    cdef int64_t* ints
    cdef int64_t n_ints
    cdef double* floats
    cdef int64_t n_floats

    def __cinit__(self, str name, str dtype, tuple ints, tuple floats):
        encoded = name.encode()
        self.op = find(encoded, len(encoded))
        if self.op == NULL:
            raise KeyError(name)
        self.dtype = DTYPES.index(dtype)
        self.format = b"fdHH"[self.dtype]
        self.ints = <int64_t*> malloc(max(len(ints), 1) * sizeof(int64_t))
        self.floats = <double*> malloc(max(len(floats), 1) * sizeof(double))
        if self.ints == NULL or self.floats == NULL:
            raise MemoryError()
        self.n_ints, self.n_floats = len(ints), len(floats)
        for i in range(len(ints)):
            self.ints[i] = ints[i]
        for i in range(len(floats)):
            self.floats[i] = floats[i]

    def __dealloc__(self):
        free(self.ints)
        free(self.floats)

    def run(self, tuple inputs, tuple outputs):
        """Computes.

        The caller has checked everything; what is tested here only guards memory: the dtype of all
        arrays, C order, writable outputs of the right size.
        """
        cdef Call call
        cdef Py_buffer views[2 * MAX_ARRAYS]
        cdef Array targets[MAX_ARRAYS]
        cdef Array* array
        cdef int n_inputs = len(inputs), n_outputs = len(outputs), n_views = 0, flags, i
        if n_inputs > MAX_ARRAYS or n_outputs > MAX_ARRAYS:
            raise ValueError(f"a kernel takes at most {MAX_ARRAYS} inputs and outputs")
        try:
            for i in range(n_inputs + n_outputs):
                flags = PyBUF_ND | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT
                if i < n_inputs:
                    PyObject_GetBuffer(inputs[i], &views[i], flags)
                    array = &call.inputs[i]
                else:
                    PyObject_GetBuffer(outputs[i - n_inputs], &views[i], flags | PyBUF_WRITABLE)
                    array = &targets[i - n_inputs]
                n_views += 1
                if views[i].format[0] != self.format or views[i].format[1] != 0:
                    raise TypeError(
                        f"{self.op.name.decode()}: an array is {views[i].format!r}, "
                        f"not {DTYPES[self.dtype]}")
                array.data = views[i].buf
                array.rank = views[i].ndim
                array.shape = <const int64_t*> views[i].shape
                array.size = views[i].len // views[i].itemsize
            call.dtype = self.dtype
            call.ints = self.ints
            call.n_ints = self.n_ints
            call.floats = self.floats
            call.n_floats = self.n_floats
            call.n_inputs = n_inputs
            call.n_outputs = 0
            if not self.op.shapes(&call) or call.n_outputs != n_outputs:
                raise ValueError(
                    f"{self.op.name.decode()}: the kernel was given inputs that do not fit")
            for i in range(n_outputs):
                if call.outputs[i].size != targets[i].size:
                    raise ValueError(
                        f"{self.op.name.decode()}: an output has {targets[i].size} elements")
                call.outputs[i].data = targets[i].data
            with nogil:
                compute_on(self.op, &call, on_pool_alone, mlayers_get_num_threads())
        finally:
            for i in range(n_views):
                PyBuffer_Release(&views[i])


def share_memory(tuple inputs, tuple outputs):
    """Whether one of the outputs overlaps another array; all are C-contiguous."""
    cdef const char* starts[2 * MAX_ARRAYS]
    cdef const char* ends[2 * MAX_ARRAYS]
    cdef Py_buffer view
    cdef int n_inputs = len(inputs), n = 0, i
    if n_inputs > MAX_ARRAYS or len(outputs) > MAX_ARRAYS:
        raise ValueError(f"a kernel takes at most {MAX_ARRAYS} inputs and outputs")
    for array in inputs + outputs:
        PyObject_GetBuffer(array, &view, PyBUF_C_CONTIGUOUS)
        starts[n] = <const char*> view.buf
        ends[n] = starts[n] + view.len
        PyBuffer_Release(&view)
        for i in range(n if n >= n_inputs else 0):
            if starts[n] < ends[i] and starts[i] < ends[n]:
                return True
        n += 1
    return False


def output_shapes(str name, tuple shapes, tuple ints, tuple floats):
    """What an op's shapes function answers, or None where it says that the inputs do not fit."""
    cdef bytes encoded = name.encode()
    cdef const Op* op = find(encoded, len(encoded))
    cdef Call call
    cdef int64_t[MAX_ARRAYS][64] sizes
    cdef int64_t[4096] int_values
    cdef double[64] float_values
    if op == NULL:
        raise KeyError(name)
    if len(shapes) > MAX_ARRAYS or len(ints) > 4096 or len(floats) > 64:
        raise ValueError("too much for this function, which tests use")
    for i, shape in enumerate(shapes):
        call.inputs[i].rank = len(shape)
        call.inputs[i].shape = &sizes[i][0]
        call.inputs[i].size = 1
        for j, size in enumerate(shape):
            sizes[i][j] = size
            call.inputs[i].size *= size
    for i in range(len(ints)):
        int_values[i] = ints[i]
    for i in range(len(floats)):
        float_values[i] = floats[i]
    call.dtype = FLOAT32
    call.n_inputs = len(shapes)
    call.n_outputs = 0
    call.ints = &int_values[0]
    call.n_ints = len(ints)
    call.floats = &float_values[0]
    call.n_floats = len(floats)
    if not op.shapes(&call):
        return None
    return tuple([
        tuple([call.outputs[i].shape[j] for j in range(call.outputs[i].rank)])
        for i in range(call.n_outputs)
    ])
