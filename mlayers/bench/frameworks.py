# SPDX-License-Identifier: Apache-2.0
"""What differs between the frameworks when a call is timed: tensors, compilers, gradients.

Those that compute on a GPU also have, for gpu.py:

    dtypes               those it knows there
    why_no_gpu()         why it has none, or None where it has
    use_full_float32()   float32 products in float32, not rounded to TF32
    tile()               a tensor, several times one after the other
    memory_calls()       its own ways to copy, fill and read memory of the device
    peak_memory()        bytes of device memory that a call takes
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mlayers.bench.programs import nameless

DTYPES = ("float16", "bfloat16", "float32", "float64")


class Cupy:
    """CuPy, on a GPU only; it neither compiles nor differentiates."""

    dtypes = ("float16", "float32", "float64")

    def why_no_gpu(self) -> str | None:
        """None: without a GPU for CuPy, the command has ended."""
        return None

    def use_full_float32(self, dtype: str) -> None:
        """Nothing to do: CuPy asks the environment, see gpu.ENVIRONMENT."""

    def tensor(self, array: Any, dtype: str) -> Any:
        """A tensor of a float64 array."""
        import cupy

        return cupy.asarray(array, dtype)

    def wait(self, result: Any) -> None:
        """Return when all that was queued has been computed."""
        import cupy

        cupy.cuda.get_current_stream().synchronize()

    def tile(self, tensor: Any, times: int) -> Any:
        """A vector, so many times one after the other."""
        import cupy

        return cupy.tile(tensor, times)

    def memory_calls(self, source: Any) -> dict[str, Callable[[], Any]]:
        """Calls that move a vector: "copy" and "negate" read and write it, the others do one."""
        import cupy

        target = cupy.empty_like(source)
        return {
            "copy": lambda: cupy.copyto(target, source),
            "negate": lambda: cupy.negative(source, out=target),
            "fill": lambda: target.fill(1),
            "read": source.sum,
        }

    def peak_memory(self, call: Callable[[], Any]) -> int | None:
        """None: CuPy does not tell."""
        return None


class Jax:
    """JAX."""

    compilers = ("jax.jit",)
    runs_eagerly = False  # by Keras, when a model trains
    dtypes = DTYPES

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

    def same_program(self, compiler: str, one: Any, other: Any, tensors: list[Any]) -> bool:
        """False: a program with a kernel in it is another than one without."""
        return False

    def with_gradient(self, function: Any) -> Any:
        """From (upstream, *inputs) to the result and the gradients."""
        import jax

        def both(upstream: Any, *inputs: Any) -> Any:
            out, pullback = jax.vjp(function, *inputs)
            return out, pullback(upstream)

        return both

    def why_no_gpu(self) -> str | None:
        """Why JAX has no GPU, or None where it has."""
        import jax

        backend = jax.default_backend()
        return None if backend == "gpu" else f"JAX sees no GPU: its backend is {backend}"

    def use_full_float32(self, dtype: str) -> None:
        """JAX rounds float32 to TF32 unless told; a half type needs no word, and is given none."""
        import jax

        jax.config.update("jax_default_matmul_precision", "highest" if dtype == "float32" else None)

    def tile(self, tensor: Any, times: int) -> Any:
        """A vector, so many times one after the other."""
        import jax.numpy as jnp

        return jnp.tile(tensor, times)

    def memory_calls(self, source: Any) -> dict[str, Callable[[], Any]]:
        """Calls that move a vector: "copy" and "negate" read and write it, the others do one."""
        import jax.numpy as jnp

        return {
            "copy": lambda: jnp.copy(source),
            "negate": lambda: jnp.negative(source),
            "fill": lambda: jnp.ones(source.shape, source.dtype),
            "read": source.sum,
        }

    def peak_memory(self, call: Callable[[], Any]) -> int | None:
        """None: JAX tells only the highest since its start."""
        return None


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

        def positional(*tensors: Any) -> Any:  # an `out=` of the function would hide its program
            return function(*tensors)

        return tf.function(positional, jit_compile=compiler == "jit_compile", autograph=False)

    def same_program(self, compiler: str, one: Any, other: Any, tensors: list[Any]) -> bool:
        """Whether XLA, which alone tells, made one program of two that such tensors went to."""
        if compiler != "jit_compile":
            return False
        programs = (f.experimental_get_compiler_ir(*tensors) for f in (one, other))
        first, second = (nameless(program(stage="optimized_hlo")) for program in programs)
        return first == second

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
    dtypes = DTYPES

    def __init__(self, device: str = "cpu") -> None:
        self.device = device  # "cpu" or "cuda"

    def start_row(self) -> None:
        """Forget what was compiled: torch.compile allows a function few shapes."""
        import torch

        torch.compiler.reset()

    def tensor(self, array: Any, dtype: str) -> Any:
        """A tensor of a float64 array."""
        import torch

        return torch.from_numpy(array).to(self.device, getattr(torch, dtype))

    def wait(self, result: Any) -> None:
        """Return when all that was queued has been computed; on a CPU nothing is queued."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def compile(self, function: Any, compiler: str) -> Any:
        """The function, compiled."""
        import torch

        if isinstance(function, _TorchGradient):
            compiled = torch.compile(function.forward, fullgraph=True, dynamic=False)
            return _TorchGradient(compiled)
        return torch.compile(function, fullgraph=True, dynamic=False)

    def same_program(self, compiler: str, one: Any, other: Any, tensors: list[Any]) -> bool:
        """False: inductor does not tell."""
        return False

    def with_gradient(self, function: Any) -> Any:
        """From (upstream, *inputs) to the result and the gradients."""
        return _TorchGradient(function)

    def why_no_gpu(self) -> str | None:
        """Why torch has no GPU, or None where it has."""
        import torch

        return None if torch.cuda.is_available() else f"torch {torch.__version__} sees no GPU"

    def use_full_float32(self, dtype: str) -> None:
        """Products in float32, as torch does unless the environment says otherwise."""
        import torch

        torch.set_float32_matmul_precision("highest")

    def tile(self, tensor: Any, times: int) -> Any:
        """A vector, so many times one after the other."""
        return tensor.tile(times)

    def memory_calls(self, source: Any) -> dict[str, Callable[[], Any]]:
        """Calls that move a vector: "copy" and "negate" read and write it, the others do one."""
        import torch

        target = torch.empty_like(source)
        return {
            "copy": lambda: target.copy_(source),
            "negate": lambda: torch.neg(source, out=target),
            "fill": lambda: target.fill_(1),
            "read": source.sum,
        }

    def peak_memory(self, call: Callable[[], Any]) -> int | None:
        """Bytes of device memory that a call takes on top of what is taken."""
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return int(torch.cuda.max_memory_allocated() - before)


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
GPU_FRAMEWORKS: dict[str, Callable[[], Any]] = {
    "cupy": Cupy,
    "jax": Jax,
    "torch": partial(Torch, "cuda"),
}
