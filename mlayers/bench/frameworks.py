# SPDX-License-Identifier: Apache-2.0
"""What differs between the frameworks when a call is timed: tensors, compilers, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Jax:
    """JAX."""

    compilers = ("jax.jit",)
    ours_compiler = "jax.jit"

    def start_row(self) -> None:
        """Nothing to forget: each function has programs of its own."""

    def tensor(self, array: Any) -> Any:
        """A tensor of an array."""
        import jax.numpy as jnp

        return jnp.asarray(array)

    def wait(self, result: Any) -> None:
        """Return when a result has been computed."""
        import jax

        jax.block_until_ready(result)

    def compile(self, function: Any, compiler: str) -> Any:
        """The function, compiled."""
        import jax

        return jax.jit(function)

    def with_gradient(self, function: Any) -> Any:
        """From (left, right, upstream) to the result and both gradients."""
        import jax

        def both(left: Any, right: Any, upstream: Any) -> Any:
            out, pullback = jax.vjp(function, left, right)
            return out, pullback(upstream)

        return both


class TensorFlow:
    """TensorFlow."""

    compilers = ("tf.function", "jit_compile")
    ours_compiler = "tf.function"

    def start_row(self) -> None:
        """Nothing to forget: each function has graphs of its own."""

    def tensor(self, array: Any) -> Any:
        """A tensor of an array."""
        import tensorflow as tf

        return tf.constant(array)

    def wait(self, result: Any) -> None:
        """Nothing to wait for: on a CPU a call returns when it is done."""

    def compile(self, function: Any, compiler: str) -> Any:
        """The function, compiled."""
        import tensorflow as tf

        return tf.function(function, jit_compile=compiler == "jit_compile", autograph=False)

    def with_gradient(self, function: Any) -> Any:
        """From (left, right, upstream) to the result and both gradients."""
        import tensorflow as tf

        def both(left: Any, right: Any, upstream: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch((left, right))
                out = function(left, right)
            return out, tape.gradient(out, (left, right), output_gradients=upstream)

        return both


class Torch:
    """torch."""

    compilers = ("torch.compile",)
    ours_compiler = "torch.compile"

    def start_row(self) -> None:
        """Forget what was compiled: torch.compile allows a function few shapes."""
        import torch

        torch.compiler.reset()

    def tensor(self, array: Any) -> Any:
        """A tensor of an array."""
        import torch

        return torch.from_numpy(array)

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
        """From (left, right, upstream) to the result and both gradients."""
        return _TorchGradient(function)


class _TorchGradient:
    """Forward and backward; torch.compile compiles the backward of a compiled forward with it."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, left: Any, right: Any, upstream: Any) -> Any:
        import torch

        leaves = (left.detach().requires_grad_(), right.detach().requires_grad_())
        out = self.forward(*leaves)
        return out, torch.autograd.grad(out, leaves, upstream)


FRAMEWORKS: dict[str, Any] = {"jax": Jax, "tensorflow": TensorFlow, "torch": Torch}
