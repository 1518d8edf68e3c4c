# SPDX-License-Identifier: Apache-2.0
"""Values and gradients of a function of tensors, asked of the active backend's own autodiff.

The tests never write a backend's name into a formula: they hand a pure function to
`value_and_grads` and compare NumPy arrays.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

BACKEND = keras.backend.backend()


def to_numpy(tensors: Any) -> Any:
    """The same structure with every tensor as a NumPy array."""
    return keras.tree.map_structure(keras.ops.convert_to_numpy, tensors)


def value_and_grads(
    fn: Callable[..., Any],
    tensors: Sequence[Any],
    upstream: Any,
    *,
    compiled: bool = False,
    fullgraph: bool = False,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Compute `fn(*tensors)` and the gradient of `sum(upstream * fn)` with respect to each tensor.

    Args:
        fn: a pure function of the tensors that returns one tensor.
        tensors: NumPy arrays; they reach `fn` as tensors of the active backend.
        upstream: gradient of the loss with respect to the value, of the value's shape.
        compiled: forward and gradient compiled: `jax.jit`, `tf.function(jit_compile=True)`,
            `torch.compile`.
        fullgraph: with torch, no graph break is allowed; the others compile whole graphs anyway.

    Returns:
        The value and a list of gradients; a tensor that `fn` does not use gets zeros.
    """
    dtype = keras.backend.standardize_dtype(upstream.dtype)
    converted = [keras.ops.convert_to_tensor(tensor, dtype=dtype) for tensor in tensors]
    upstream = keras.ops.convert_to_tensor(upstream, dtype=dtype)
    run = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[BACKEND]
    value, grads = run(fn, converted, upstream, compiled, fullgraph)
    filled = [
        np.zeros(tensor.shape, dtype) if grad is None else keras.ops.convert_to_numpy(grad)
        for tensor, grad in zip(converted, grads, strict=True)
    ]
    return keras.ops.convert_to_numpy(value), filled


def _jax(fn: Any, tensors: list[Any], upstream: Any, compiled: bool, _: bool) -> Any:
    import jax

    def step(tensors: list[Any], upstream: Any) -> Any:
        value, pullback = jax.vjp(fn, *tensors)
        return value, pullback(upstream)

    return (jax.jit(step) if compiled else step)(tensors, upstream)


def _tensorflow(fn: Any, tensors: list[Any], upstream: Any, compiled: bool, _: bool) -> Any:
    import tensorflow as tf

    def step(tensors: list[Any], upstream: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = fn(*tensors)
        return value, tape.gradient(value, tensors, output_gradients=upstream)

    return (tf.function(step, jit_compile=True) if compiled else step)(tensors, upstream)


def _torch(fn: Any, tensors: list[Any], upstream: Any, compiled: bool, fullgraph: bool) -> Any:
    import torch

    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    run = torch.compile(fn, fullgraph=fullgraph) if compiled else fn
    value = run(*leaves)
    return value.detach(), torch.autograd.grad(value, leaves, upstream, allow_unused=True)


def weight_gradients(layer: keras.layers.Layer, inputs: Any) -> list[np.ndarray]:
    """The gradients of the sum of all outputs with respect to the trainable weights.

    As Keras' training loop takes them: with TensorFlow and torch the layer reads its own
    variables, with JAX it is called statelessly.
    """

    def total(outputs: Any) -> Any:
        return sum(keras.ops.sum(y) for y in keras.tree.flatten(outputs))

    if not layer.trainable_variables:
        return []
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = total(layer(inputs))
        return to_numpy(tape.gradient(value, [v.value for v in layer.trainable_variables]))
    weights = [variable.value for variable in layer.trainable_variables]
    if BACKEND == "torch":
        import torch

        return to_numpy(list(torch.autograd.grad(total(layer(inputs)), weights)))
    import jax

    state = [variable.value for variable in layer.non_trainable_variables]
    return to_numpy(
        jax.grad(lambda weights: total(layer.stateless_call(weights, state, inputs)[0]))(weights)
    )


@contextlib.contextmanager
def float64_allowed() -> Iterator[None]:
    """Inside, JAX makes float64 arrays when asked to; the other backends always do."""
    if BACKEND != "jax":
        yield
        return
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
