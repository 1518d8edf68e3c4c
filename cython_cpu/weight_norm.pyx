# SPDX-License-Identifier: Apache-2.0
# distutils: language = c++
"""Weight norm on the CPU: the columns of a kernel, scaled to given lengths.

The loops are in weight_norm.hpp. Threads share the columns, by panels.
"""
from libc.stdint cimport int64_t

from call cimport Array, Body, Call, exported, for_rows, is_matrix, returns_like, same_shape, takes

cdef extern from "weight_norm.hpp" namespace "mlayers" nogil:
    const int64_t PANEL
    const Body* NORM_PANELS  # by dtype
    const Body* NORM_GRAD_PANELS


cdef bint fits(const Array* kernel, const Array* norm) noexcept nogil:
    return is_matrix(kernel) and norm.rank == 1 and norm.shape[0] == kernel.shape[1]


cdef bint weight_norm_shapes(Call* call) noexcept nogil:
    if not takes(call, 2, 0, 0):
        return False
    returns_like(call, 0)
    return fits(&call.inputs[0], &call.inputs[1])


cdef bint weight_norm_grad_shapes(Call* call) noexcept nogil:
    if not takes(call, 3, 0, 0):
        return False
    returns_like(call, 1)
    returns_like(call, 2)
    return (
        same_shape(&call.inputs[0], &call.inputs[1]) and fits(&call.inputs[1], &call.inputs[2])
    )


cdef void for_panels(
    const Call* call, const Array* kernel, int64_t work, const Body* bodies
) noexcept nogil:
    for_rows(
        call, (kernel.shape[1] + PANEL - 1) // PANEL, work * kernel.size, bodies[call.dtype])


cdef void weight_norm(const Call* call) noexcept nogil:
    for_panels(call, &call.inputs[0], 2, NORM_PANELS)


cdef void weight_norm_grad(const Call* call) noexcept nogil:
    for_panels(call, &call.inputs[1], 4, NORM_GRAD_PANELS)


KERNELS = {
    "weight_norm": exported(weight_norm, weight_norm_shapes),
    "weight_norm_grad": exported(weight_norm_grad, weight_norm_grad_shapes),
}
