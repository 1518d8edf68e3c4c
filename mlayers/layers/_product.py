# SPDX-License-Identifier: Apache-2.0
"""The matrix product of a dense layer, and what its gradient becomes on JAX.

The kernel's gradient, `inputs.T @ grad`, reaches XLA as a product over the first axis of both. On a
CPU, XLA has YNNPACK compute products over neighbouring axes, and this one is left to Eigen. With
the inputs turned round in memory first, it is one of the former, and the training step of a
512-256-128-1 LHUCTower of 1024 rows takes 0.95 of the time (2 cores of an AMD EPYC, AVX-512, JAX
0.10.2). A product alone, the turning included, in the time that it takes otherwise, by
(input_dim, units); figures that close to 1 change from run to run:

    rows    (512,512)  (512,64)  (64,512)  (64,64)  (32,32)  (512,16)  (16,512)  (128,8)  (128,1)
    64      1.11       1.10      1.03      0.96     0.67     0.75      0.88      1.03     1.01
    256     1.01       0.94      0.76      0.86     0.97     0.90      0.96      0.79     1.00
    1024    0.98       0.87      0.82      1.18     0.87     0.78      0.84      1.00     0.98
    8192               1.27      0.93      1.28     1.26     1.33      0.64      1.23     0.99
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras

# With fewer rows there is little to gain, with more the turned inputs fill the caches.
LEAST_ROWS, MOST_ROWS = 256, 4096
LEAST_WIDTH = 16


def product(inputs: Any, kernel: Any) -> Any:
    """`inputs @ kernel`."""
    # @: keras.ops.matmul computes float64 in float32 on torch
    if keras.backend.backend() == "jax" and _is_to_be_turned(inputs, kernel):
        return _with_turned_gradient()(inputs, kernel)
    return inputs @ kernel


def _is_to_be_turned(inputs: Any, kernel: Any) -> bool:
    """Whether JAX traces a product of a size that gains."""
    import jax

    shape = (*inputs.shape, *kernel.shape)
    return bool(
        len(shape) == 4
        and all(isinstance(size, int) for size in shape)  # else a symbol of an export
        and LEAST_ROWS <= inputs.shape[0] <= MOST_ROWS
        and min(kernel.shape) >= LEAST_WIDTH
        and inputs.dtype == kernel.dtype == "float32"
        and any(isinstance(array, jax.core.Tracer) for array in (inputs, kernel))
        and jax.default_backend() == "cpu"
        and _xla_has_ynnpack()
    )


@functools.cache
def _xla_has_ynnpack() -> bool:
    """Whether this XLA gives YNNPACK a product over neighbouring axes."""
    import jax

    array = jax.ShapeDtypeStruct((256, 256), "float32")
    compiled = jax.jit(lambda x, y: x @ y).lower(array, array).compile()
    return "__ynn_fusion" in compiled.as_text()


@functools.cache
def _with_turned_gradient() -> Callable[[Any, Any], Any]:
    """The product, with a derivative in operations of JAX that transpose to the fast product."""
    import jax

    turned = jax.lax.optimization_barrier  # what it is given is in memory, as it is given
    over_first_axes = (((0,), (0,)), ((), ()))

    product: Callable[[Any, Any], Any] = jax.custom_jvp(lambda inputs, kernel: inputs @ kernel)

    def derivative(primals: Any, tangents: Any) -> Any:
        inputs, kernel = primals
        inputs_tangent, kernel_tangent = (
            None if isinstance(tangent, jax.custom_derivatives.SymbolicZero) else tangent
            for tangent in tangents
        )
        output = product(inputs, kernel)
        tangent = jax.numpy.zeros_like(output)
        if inputs_tangent is not None:
            tangent += product(inputs_tangent, kernel)
        if kernel_tangent is not None:
            tangent += jax.lax.dot_general(turned(inputs.T), kernel_tangent, over_first_axes)
        return output, tangent

    product.defjvp(derivative, symbolic_zeros=True)  # type: ignore[attr-defined]
    return product
