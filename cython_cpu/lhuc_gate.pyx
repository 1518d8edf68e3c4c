# SPDX-License-Identifier: Apache-2.0
"""The LHUC gate on the CPU: out = hidden * 2 * sigmoid(logits), element by element, one pass."""
from call cimport FLOAT32, Call, threads_for
from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating
from cython.parallel cimport prange
from libc.math cimport exp, expf
from libc.stdint cimport int64_t


cdef inline floating sigmoid(floating x) noexcept nogil:
    # exp(-x) overflows to inf for very negative x, and 1 / inf is the 0 that is wanted.
    if floating is float:
        return 1 / (1 + expf(-x))
    else:
        return 1 / (1 + exp(-x))


cdef void forward(const Call* call, floating* out) noexcept nogil:
    cdef const floating* hidden = <const floating*> call.inputs[0].data
    cdef const floating* logits = <const floating*> call.inputs[1].data
    cdef int64_t i, n = call.inputs[0].size
    # An exponential costs about as much as 16 multiply-adds.
    for i in prange(n, schedule="static", num_threads=threads_for(call, 16 * n)):
        out[i] = 2 * hidden[i] * sigmoid(logits[i])


cdef void backward(const Call* call, floating* hidden_grad) noexcept nogil:
    cdef const floating* grad = <const floating*> call.inputs[0].data
    cdef const floating* hidden = <const floating*> call.inputs[1].data
    cdef const floating* logits = <const floating*> call.inputs[2].data
    cdef floating* logits_grad = <floating*> call.outputs[1].data
    cdef floating gate, gated
    cdef int64_t i, n = call.inputs[0].size
    for i in prange(n, schedule="static", num_threads=threads_for(call, 16 * n)):
        gate = sigmoid(logits[i])
        gated = 2 * grad[i] * gate
        hidden_grad[i] = gated
        logits_grad[i] = gated * hidden[i] * (1 - gate)


cdef void lhuc_gate(const Call* call) noexcept nogil:
    if call.dtype == FLOAT32:
        forward(call, <float*> call.outputs[0].data)
    else:
        forward(call, <double*> call.outputs[0].data)


cdef void lhuc_gate_grad(const Call* call) noexcept nogil:
    if call.dtype == FLOAT32:
        backward(call, <float*> call.outputs[0].data)
    else:
        backward(call, <double*> call.outputs[0].data)


KERNELS = {
    "lhuc_gate": PyCapsule_New(<void*> lhuc_gate, b"mlayers_kernel", NULL),
    "lhuc_gate_grad": PyCapsule_New(<void*> lhuc_gate_grad, b"mlayers_kernel", NULL),
}
