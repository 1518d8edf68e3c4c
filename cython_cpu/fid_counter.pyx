# SPDX-License-Identifier: Apache-2.0
"""The saturating counter on the CPU: out = min(counter + step, threshold), element by element.

Its gradient is a rule, not a derivative: -step below the threshold, else 0; why is told in
mlayers/ops/fid_counter.py.
"""
from call cimport FLOAT32, Call, threads_for
from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating
from cython.parallel cimport prange
from libc.stdint cimport int64_t


cdef void forward(const Call* call, floating* out) noexcept nogil:
    cdef const floating* counter = <const floating*> call.inputs[0].data
    cdef floating threshold = <floating> call.floats[0], step = <floating> call.floats[1]
    cdef floating value
    cdef int64_t i, n = call.inputs[0].size
    for i in prange(n, schedule="static", num_threads=threads_for(call, n)):
        value = counter[i] + step
        # Written so that a NaN counter stays NaN.
        out[i] = threshold if value > threshold else value


cdef void backward(const Call* call, floating* counter_grad) noexcept nogil:
    cdef const floating* counter = <const floating*> call.inputs[0].data
    cdef floating threshold = <floating> call.floats[0], step = <floating> call.floats[1]
    cdef int64_t i, n = call.inputs[0].size
    for i in prange(n, schedule="static", num_threads=threads_for(call, n)):
        counter_grad[i] = -step if counter[i] < threshold else 0


cdef void fid_counter(const Call* call) noexcept nogil:
    if call.dtype == FLOAT32:
        forward(call, <float*> call.outputs[0].data)
    else:
        forward(call, <double*> call.outputs[0].data)


cdef void fid_counter_grad(const Call* call) noexcept nogil:
    if call.dtype == FLOAT32:
        backward(call, <float*> call.outputs[0].data)
    else:
        backward(call, <double*> call.outputs[0].data)


KERNELS = {
    "fid_counter": PyCapsule_New(<void*> fid_counter, b"mlayers_kernel", NULL),
    "fid_counter_grad": PyCapsule_New(<void*> fid_counter_grad, b"mlayers_kernel", NULL),
}
