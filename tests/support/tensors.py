# SPDX-License-Identifier: Apache-2.0
"""Tensors of the active backend for the tests of ops: making, reading, compiling, differentiating.

Of every dtype, bfloat16 and float64 too. Keras is imported inside the functions, because the tests
of ops also run where it is not installed.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from support.op_examples import DTYPES

# torch: aot_eager traces forward and gradient whole as inductor does, but generates no C++, which
# takes seconds per graph; one test per op goes through inductor.
COMPILERS = {
    "jax": ["jit"],
    "tensorflow": ["function", "function_jit"],
    "torch": ["aot_eager"],
}.get(os.environ.get("KERAS_BACKEND", ""), ["none"])


def compiler(
    name: str, fullgraph: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What turns a function of tensors into a compiled one."""
    if name == "jit":
        import jax

        return jax.jit
    if name.startswith("function"):
        import tensorflow as tf

        return lambda fn: tf.function(fn, jit_compile=name == "function_jit", autograph=False)
    import torch

    torch.compiler.reset()  # or the same test function, compiled for each example, meets a limit
    return lambda fn: torch.compile(fn, fullgraph=fullgraph, backend=name)


@functools.cache
def keras_ops_can_be_traced() -> bool:
    """Whether torch.compile can trace keras.ops whole, of which compositions are made.

    Before torch 2.11 or so it cannot, whoever calls them; the kernels it can.
    """
    if os.environ.get("KERAS_BACKEND") != "torch":
        return True
    import keras
    import torch

    probe = torch.compile(lambda x: keras.ops.cast(x, "float64"), fullgraph=True, backend="eager")
    try:
        probe(torch.ones(1))
    except torch._dynamo.exc.Unsupported:
        return False
    return True


def has_kernel(op: Any, dtype: str) -> bool:
    """Whether the active backend runs a kernel for this op and dtype by itself."""
    import keras

    import mlayers
    from mlayers.bridges import native

    bridge = native.bridge(keras.backend.backend())
    if bridge is None or mlayers.show_config(mode="dict")["path"] == "composition":
        return False
    with dtype_allowed(dtype):
        tensor = to_tensor(np.ones((1, 1), DTYPES[dtype]))
        return bool(bridge.serves(op, [tensor] * len(op.inputs)))


@contextlib.contextmanager
def dtype_allowed(dtype: str) -> Any:
    from support.frameworks import float64_allowed

    with float64_allowed() if dtype == "float64" else contextlib.nullcontext():
        yield


def to_tensor(array: Any) -> Any:
    """A NumPy array as a tensor of the active backend, of the very same dtype."""
    import keras

    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        return array
    return keras.ops.convert_to_tensor(array, dtype=array.dtype.name)


def is_tensor(value: Any) -> bool:
    import keras

    return bool(keras.ops.is_tensor(value))


def to_array(tensor: Any) -> np.ndarray:
    """A tensor as a NumPy array of the very same dtype, which torch cannot do for bfloat16."""
    import keras

    dtype = keras.backend.standardize_dtype(tensor.dtype)
    wide = keras.ops.cast(tensor, "float32") if dtype == "bfloat16" else tensor
    return keras.ops.convert_to_numpy(wide).astype(DTYPES[dtype])


def autodiff(
    call: Callable[..., Any], tensors: list[Any], upstream: Any, compile_with: str | None
) -> Any:
    """The framework's own gradients of sum(upstream * call), forward and gradient compiled."""
    import keras

    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        run = compiler(compile_with)(call) if compile_with else call
        leaves = [t.detach().clone().requires_grad_() for t in tensors]
        return torch.autograd.grad(run(*leaves), leaves, upstream)
    if backend == "jax":
        import jax

        def step(inputs, upstream):
            return jax.vjp(call, *inputs)[1](upstream)

    else:
        import tensorflow as tf

        def step(inputs, upstream):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                value = call(*inputs)
            return tape.gradient(value, inputs, output_gradients=upstream)

    return (compiler(compile_with)(step) if compile_with else step)(tensors, upstream)
