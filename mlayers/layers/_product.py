# SPDX-License-Identifier: Apache-2.0
"""The matrix product of a dense layer, and what its gradient becomes on JAX.

The kernel's gradient, `inputs.T @ grad`, reaches XLA as a product over the first axis of both. On a
CPU, XLA has YNNPACK compute products over neighbouring axes, but not this one. With the inputs
turned round in memory first, it is one of the former. Whether that pays for the turning is a matter
of rows, and of the processor. The training step of a 512-256-128-1 LHUCTower, in the time that it
takes without, float32, JAX 0.10.2, 2 cores with AVX-512, in several runs:

    rows                                 256         512         1024        2048        4096
    AMD EPYC, 32 MB of last cache        1.05, 1.01  0.96, 0.96  0.95, 0.97  1.10, 1.12  0.99, 1.00
    Intel Xeon, 105 MB of last cache                             1.05, 1.06

On the Xeon the product of 1024 rows, 512 wide on both sides, takes 3.6 ms as it is, 3.2 where the
inputs already lie turned, and turning them 0.9.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

LEAST_ROWS, MOST_ROWS = 512, 1024
LEAST_WIDTH = 16  # 1024 rows, 8 wide in and 128 out: 1.2 to 1.6 of the time


def product(inputs: Any, kernel: Any) -> Any:
    """`inputs @ kernel`."""
    # @: keras.ops.matmul computes float64 in float32 on torch
    if keras.backend.backend() == "jax" and _is_to_be_turned(inputs, kernel):
        return _with_turned_gradient()(inputs, kernel)
    return inputs @ kernel


def plus_bias(outputs: Any, bias: Any) -> Any:
    """`outputs + bias`, into `outputs` where eager torch allows it: that saves 2 % of a step."""
    if keras.backend.backend() == "torch":
        import torch

        # torch.vmap has no place for what is mapped in what is not; a compiler needs no hint.
        if not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()):
            outputs += bias
            return outputs
    return outputs + bias


def _is_to_be_turned(inputs: Any, kernel: Any) -> bool:
    """Whether JAX traces a product of a size that gains."""
    import jax

    return bool(
        len(inputs.shape) == 2
        and isinstance(inputs.shape[0], int)  # else a symbol of an export
        and LEAST_ROWS <= inputs.shape[0] <= MOST_ROWS
        and min(kernel.shape) >= LEAST_WIDTH
        and inputs.dtype == kernel.dtype == "float32"
        and any(isinstance(array, jax.core.Tracer) for array in (inputs, kernel))
        and jax.default_backend() == "cpu"
        and _is_amd()
        and _xla_has_ynnpack()
    )


@functools.cache
def _is_amd() -> bool:
    """Whether the processor is one of AMD's; where there is no such file, it is not asked."""
    about = Path("/proc/cpuinfo")
    return about.exists() and "AuthenticAMD" in about.read_text()


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
