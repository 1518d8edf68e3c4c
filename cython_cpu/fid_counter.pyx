# SPDX-License-Identifier: Apache-2.0
# distutils: language = c++
"""The saturating counter on the CPU: out = min(counter + step, threshold), element by element.

Its gradient is a rule, not a derivative: -step below the threshold, else 0; why is told in
mlayers/ops/fid_counter.py. The loops are in fid_counter.hpp.
"""
from call cimport Body, Call, exported, for_rows, returns_like, takes

cdef extern from "fid_counter.hpp" namespace "mlayers" nogil:
    const Body* COUNT_ROWS  # by dtype
    const Body* COUNT_GRAD_ROWS


cdef bint shapes(Call* call) noexcept nogil:
    if not takes(call, 1, 0, 2):
        return False
    returns_like(call, 0)
    return True


cdef void fid_counter(const Call* call) noexcept nogil:
    for_rows(call, call.inputs[0].size, call.inputs[0].size, COUNT_ROWS[call.dtype])


cdef void fid_counter_grad(const Call* call) noexcept nogil:
    for_rows(call, call.inputs[0].size, call.inputs[0].size, COUNT_GRAD_ROWS[call.dtype])


KERNELS = {
    "fid_counter": exported(fid_counter, shapes),
    "fid_counter_grad": exported(fid_counter_grad, shapes),
}
