# SPDX-License-Identifier: Apache-2.0
"""What differs between the frameworks when a call is timed: tensors, compilers, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Jax:
    """JAX."""

    compilers = ("jax.jit",)
    runs_eagerly = False  # by Keras, when a model trains

    def start_row(self) -> None:
        """Nothing to forget: each function has programs of its own."""

    def tensor(self, array: Any, dtype: str) -> Any:
        """A tensor of a float64 array."""
        import jax.numpy as jnp

        return jnp.asarray(array, dtype)

    def wait(self, result: Any) -> None:
        """Return when a result has been computed."""
        import jax

        jax.block_until_ready(result)

    def compile(self, function: Any, compiler: str) -> Any:
        """The function, compiled."""
        import jax

        return jax.jit(function)

    def with_gradient(self, function: Any) -> Any:
        """From (upstream, *inputs) to the result and the gradients."""
        import jax

        def both(upstream: Any, *inputs: Any) -> Any:
            out, pullback = jax.vjp(function, *inputs)
            return out, pullback(upstream)

        return both


class TensorFlow:
    """TensorFlow."""

    compilers = ("tf.function", "jit_compile")
    runs_eagerly = False

    def start_row(self) -> None:
        """Nothing to forget: each function has graphs of its own."""

    def tensor(self, array: Any, dtype: str) -> Any:
        """A tensor of a float64 array."""
        import tensorflow as tf

        return tf.cast(tf.constant(array), dtype)

    def wait(self, result: Any) -> None:
        """Nothing to wait for: on a CPU a call returns when it is done."""

    def compile(self, function: Any, compiler: str) -> Any:
        """The function, compiled."""
        import tensorflow as tf

        return tf.function(function, jit_compile=compiler == "jit_compile", autograph=False)

    def with_gradient(self, function: Any) -> Any:
        """From (upstream, *inputs) to the result and the gradients."""
        import tensorflow as tf

        def both(upstream: Any, *inputs: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                out = function(*inputs)
            return out, tape.gradient(out, inputs, output_gradients=upstream)

        return both


class Torch:
    """torch."""

    compilers = ("torch.compile",)
    runs_eagerly = True

    def start_row(self) -> None:
        """Forget what was compiled: torch.compile allows a function few shapes."""
        import torch

        torch.compiler.reset()

    def tensor(self, array: Any, dtype: str) -> Any:
        """A tensor of a float64 array."""
        import torch

        return torch.from_numpy(array).to(getattr(torch, dtype))

    def wait(self, result: Any) -> None:
        """Nothing to wait for: on a CPU a call returns when it is done."""

    def compile(self, function: Any, compiler: str) -> Any:
        """The function, compiled."""
        import torch

        if isinstance(function, _TorchGradient):
            compiled = torch.compile(function.forward, fullgraph=True, dynamic=False)
            return _TorchGradient(compiled)
        return torch.compile(function, fullgraph=True, dynamic=False)

    def with_gradient(self, function: Any) -> Any:
        """From (upstream, *inputs) to the result and the gradients."""
        return _TorchGradient(function)


class _TorchGradient:
    """Forward and backward; torch.compile compiles the backward of a compiled forward with it."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, upstream: Any, *inputs: Any) -> Any:
        import torch

        leaves = tuple(tensor.detach().requires_grad_() for tensor in inputs)
        out = self.forward(*leaves)
        return out, torch.autograd.grad(out, leaves, upstream)


FRAMEWORKS: dict[str, Any] = {"jax": Jax, "tensorflow": TensorFlow, "torch": Torch}
