# SPDX-License-Identifier: Apache-2.0
"""The one way from Python into a kernel: fill `mlayers_call` from buffers, release the GIL, call.

Knows no op by name. NumPy is not needed to build it: arrays arrive through the buffer protocol.
"""
from call cimport FLOAT32, FLOAT64, HAS_OPENMP, MAX_ARRAYS, Array, Call, Kernel, max_threads
from cpython.buffer cimport (
    PyBUF_FORMAT,
    PyBUF_ND,
    PyBUF_C_CONTIGUOUS,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

import os

openmp = bool(HAS_OPENMP)  # whether the kernels were compiled with OpenMP

cdef int _threads = max_threads()


def thread_count():
    """How many threads a kernel may use in this process."""
    return _threads


def _serial_after_fork():
    # An OpenMP team does not survive fork(): the child would wait for threads that are not there.
    global _threads
    _threads = 1


if openmp and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_serial_after_fork)


def run(object kernel, tuple inputs, tuple outputs, tuple ints, tuple floats):
    """Run `kernel` (a capsule out of a module's KERNELS) on C-contiguous float32 or float64 arrays.

    The caller has checked everything; what is tested here only guards memory: one dtype for all
    arrays, C order, writable outputs.
    """
    cdef Kernel function = <Kernel> PyCapsule_GetPointer(kernel, b"mlayers_kernel")
    cdef Call call
    cdef Py_buffer views[2 * MAX_ARRAYS]
    cdef int n_inputs = len(inputs), n_outputs = len(outputs), n_views = 0, i, dtype
    cdef Array* array
    cdef int64_t* int_values = NULL
    cdef double* float_values = NULL

    if n_inputs > MAX_ARRAYS or n_outputs > MAX_ARRAYS:
        raise ValueError(f"a kernel takes at most {MAX_ARRAYS} inputs and outputs")
    try:
        for i in range(n_inputs + n_outputs):
            if i < n_inputs:
                PyObject_GetBuffer(
                    inputs[i], &views[i], PyBUF_ND | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
                array = &call.inputs[i]
            else:
                PyObject_GetBuffer(
                    outputs[i - n_inputs], &views[i],
                    PyBUF_ND | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
                array = &call.outputs[i - n_inputs]
            n_views += 1
            if views[i].format == b"f":
                dtype = FLOAT32
            elif views[i].format == b"d":
                dtype = FLOAT64
            else:
                raise TypeError(f"kernels take float32 or float64, not {views[i].format!r}")
            if i > 0 and dtype != call.dtype:
                raise TypeError("kernels take arrays of one dtype")
            call.dtype = dtype
            array.data = views[i].buf
            array.rank = views[i].ndim
            array.shape = <const int64_t*> views[i].shape
            array.size = views[i].len // views[i].itemsize

        int_values = <int64_t*> malloc(max(len(ints), 1) * sizeof(int64_t))
        float_values = <double*> malloc(max(len(floats), 1) * sizeof(double))
        if int_values == NULL or float_values == NULL:
            raise MemoryError()
        for i in range(len(ints)):
            int_values[i] = ints[i]
        for i in range(len(floats)):
            float_values[i] = floats[i]
        call.ints = int_values
        call.n_ints = len(ints)
        call.floats = float_values
        call.n_floats = len(floats)
        call.threads = _threads
        with nogil:
            function(&call)
    finally:
        free(int_values)
        free(float_values)
        for i in range(n_views):
            PyBuffer_Release(&views[i])
