# SPDX-License-Identifier: Apache-2.0
"""The JAX bridge: kernels inside XLA programs, through XLA's FFI.

Five layers, each there for one thing that JAX does with a function:

    jit(custom_vjp(…))        eagerly it costs microseconds; differentiated, it is the gradient
                              op, and a gradient op's gradient is its composition's
      custom_vmap             a mapped axis joins the batch
        custom_partitioning   a batch that is split over devices stays split: no all-gather; a
                              result that is a sum over the batch is summed over the devices
          primitive           lowered for a platform without kernels, or for export, it becomes
                              the composition; JAX tells of neither in any other way
            ffi_call          the call in the program, answered by jax.c, on a GPU by jax_cuda.c
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec

from mlayers.bridges import jax_cuda, native
from mlayers.bridges.jax_shard_map import array_type, varying_alike
from mlayers.config import chosen_path
from mlayers.op import Op

TARGET = "mlayers"  # the one custom call target, for every op

_DTYPES = frozenset(map(jnp.dtype, native.DTYPES))

Call = Callable[..., tuple[Any, ...]]


def load() -> None:
    """Hand the handler to XLA.

    Raises:
        Unavailable: no compiled bridge, or a JAX without a stable FFI.
    """
    if not hasattr(jax, "ffi"):
        raise native.Unavailable(f"jax.ffi is missing: jax {jax.__version__} is older than 0.5")
    handler = jax.ffi.pycapsule(native.start("jax").mlayers_xla_call)
    jax.ffi.register_ffi_target(TARGET, handler, platform="cpu")
    if jax_cuda.why_not() is None:
        jax_cuda.load()
        mlir.register_lowering(_primitive, partial(_lower, jax_cuda.lower), platform="cuda")


def state() -> str:
    """What `show_config()` says."""
    why = jax_cuda.why_not()
    gpu = f"composition on a GPU ({why})" if why else "kernels on the GPU"
    return f"kernels on the CPU, through XLA FFI; {gpu}; composition when exported"


def probe(dtype: str) -> None:
    """Compute `PROBE` through JAX; raises Unavailable where the result is wrong."""
    if dtype == "float64" and not jax.config.jax_enable_x64:
        return
    x = np.arange(6, dtype=jnp.dtype(dtype)).reshape(2, 3)
    with jax.transfer_guard("allow"):
        (found,) = _function(native.PROBE, (3,))(x)
        native.check_probe(np.asarray(found), 3, x)


def serves(op: Op, tensors: Sequence[Any]) -> bool:
    """Whether there is a kernel for the dtype; for which platform is known only when lowering."""
    # jax2onnx lowers nothing: it translates the primitives of a traced program, JAX's own alone.
    leaves = isinstance(tensors[0], jax.core.Tracer) and native.called_from("jax2onnx")
    return tensors[0].dtype in _DTYPES and not leaves


def path(tensors: Sequence[Any]) -> str:
    """Which kernels these arrays would go to: `"cython"` or `"cupy"`; a tracer does not say."""
    return "cython" if jax_cuda.why_not() else "cupy"


def run(op: Op, tensors: Sequence[Any], values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Compute `op` on checked arrays or tracers."""
    if op.fusible is not None and chosen_path() != "auto":
        op = _as_kernel(op)
    return _function(op, values)(*varying_alike(tensors))


@lru_cache(maxsize=64)
def _as_kernel(op: Op) -> Op:
    """The op as one that a program calls, where XLA would rather fuse its formula."""
    gradient = replace(op.gradient, fusible=None) if op.gradient else None
    return replace(op, fusible=None, gradient=gradient)


# --- eager calls and gradients ---


@lru_cache(maxsize=1024)
def _function(op: Op, values: tuple[Any, ...]) -> Call:
    """`op` with its attributes closed over, differentiable in reverse mode."""
    gradient = op.gradient
    function = jax.custom_vjp(_mapped(op, values))

    def forward(*inputs: Any) -> tuple[Any, Any]:
        return function(*inputs), inputs

    def backward(inputs: Any, upstreams: Any) -> tuple[Any, ...]:
        if gradient is None:
            pullback: Call = jax.vjp(partial(_composed, op, values), *inputs)[1]
            return pullback(upstreams)
        named = dict(zip(op.inputs, inputs, strict=True), grad=upstreams[0])
        tensors = [named[name] for name in gradient.inputs]
        rule = "jax" if path(tensors) == "cython" else "cuda"
        if native.gradient_takes_kernel(gradient, rule, tensors, values):
            return _function(gradient, values)(*tensors)
        return _composed(gradient, values, *tensors)

    function.defvjp(forward, backward)
    jitted: Call = jax.jit(function, inline=True)
    return jitted


def _composed(op: Op, values: tuple[Any, ...], *tensors: Any) -> tuple[Any, ...]:
    from mlayers.bridges import composition

    return composition.compose(op, tensors, values)


# --- vmap ---


def _mapped(op: Op, values: tuple[Any, ...]) -> Call:
    """The call, with a rule for a mapped axis: it becomes batch, if the op's axes allow it."""

    def call(*tensors: Any) -> tuple[Any, ...]:
        return partitioned(*tensors)

    def fold(size: int, mapped: list[bool], *tensors: Any) -> tuple[Any, Any]:
        if not op.folds(mapped):
            axes = tuple(0 if is_mapped else None for is_mapped in mapped)
            results = jax.vmap(partial(_composed, op, values), in_axes=axes)(*tensors)
            return results, (True,) * len(results)
        folded, batch = [], 0
        for tensor, is_mapped, names in zip(tensors, mapped, op.input_axes, strict=True):
            if names.startswith(("b", "...")) and not is_mapped:
                tensor = jnp.broadcast_to(tensor, (size, *tensor.shape))
            if names.startswith("b"):
                batch = tensor.shape[1]
                tensor = tensor.reshape((size * batch, *tensor.shape[2:]))
            folded.append(tensor)
        results = function(*folded)
        if op.output_axes[0] != "...":
            results = tuple(r.reshape((size, batch, *r.shape[1:])) for r in results)
        return results, (True,) * len(results)

    partitioned = _partitioned(op, values)
    call.__name__ = op.name  # what a jaxpr calls it
    function: Call = custom_vmap(call)
    function.def_vmap(fold)  # type: ignore[attr-defined]
    return function


# --- a batch split over devices ---


def _partitioned(op: Op, values: tuple[Any, ...]) -> Call:
    """The call, with a rule of how to split it over a mesh of devices.

    Only the batch is ever split (any axis of an elementwise op): other axes are gathered first.
    """

    def call(*tensors: Any) -> tuple[Any, ...]:
        return tuple(_primitive.bind(*tensors, op=op, values=values))

    def axes_of(array: Any) -> tuple[Any, ...]:
        """What each axis of an array is split over: mesh axes, or None."""
        spec = tuple(array.sharding.spec) if array.sharding is not None else ()
        return (*spec, *[None] * (len(array.shape) - len(spec)))

    def split(mesh: Any, arrays: Any) -> tuple[Any, list[Any], list[Any]]:
        """What the batch is split over, and the shardings of inputs and outputs for it."""
        if op.input_axes[0] == "...":
            spec = max(map(axes_of, arrays), key=lambda axes: sum(a is not None for a in axes))
            same = NamedSharding(mesh, PartitionSpec(*spec))
            return None, [same] * len(op.inputs), [same] * len(op.outputs)
        batches = [
            axes_of(array)[0]
            for array, names in zip(arrays, op.input_axes, strict=True)
            if names.startswith("b")
        ]
        batch = next((axis for axis in batches if axis is not None), None)

        def sharding(names: str) -> Any:
            first = batch if names.startswith("b") else None
            return NamedSharding(mesh, PartitionSpec(first, *[None] * (len(names) - 1)))

        return batch, [*map(sharding, op.input_axes)], [*map(sharding, op.output_axes)]

    def infer(mesh: Any, arrays: Any, results: Any) -> Any:
        return tuple(split(mesh, arrays)[2])

    def partition(mesh: Any, arrays: Any, results: Any) -> Any:
        batch, given, wanted = split(mesh, arrays)

        def on_each_device(*tensors: Any) -> tuple[Any, ...]:
            found = call(*tensors)
            if batch is None:
                return found
            return tuple(  # without b: a sum over the batch, of which each device has a part
                part if names.startswith("b") else jax.lax.psum(part, batch)
                for part, names in zip(found, op.output_axes, strict=True)
            )

        return mesh, on_each_device, tuple(wanted), tuple(given)

    def rule(mesh: Any, arrays: Any, results: Any) -> str:
        """The axes in the notation of Shardy: every axis named, blanks between them."""
        elementwise = " ".join(f"i{axis}" for axis in range(len(arrays[0].shape)))
        sides = [
            ", ".join(elementwise if names == "..." else " ".join(names) for names in side)
            for side in (op.input_axes, op.output_axes)
        ]
        return " -> ".join(sides)

    function = custom_partitioning(call)
    function.def_partition(
        infer_sharding_from_operands=infer, partition=partition, sharding_rule=rule
    )
    wrapped: Call = function
    return wrapped


# --- the primitive ---

_primitive = Primitive("mlayers")
_primitive.multiple_results = True


def _infer(*tensors: Any, op: Op, values: tuple[Any, ...]) -> list[Any]:
    shapes = op.shapes(*(tensor.shape for tensor in tensors), **op.named(values))
    return [array_type(shape, tensors[0]) for shape in shapes]


@lru_cache(maxsize=1024)
def _compiled(op: Op, values: tuple[Any, ...]) -> Call:
    compiled: Call = jax.jit(partial(_primitive.bind, op=op, values=values))
    return compiled


def _evaluate(*tensors: Any, op: Op, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Outside of a program, where `jax.checkpoint` evaluates piece by piece."""
    if jax.config.jax_disable_jit:  # a kernel is reached by a program alone, be it one of its own
        with jax.disable_jit(False):
            return _compiled(op, values)(*tensors)
    return _compiled(op, values)(*tensors)


_primitive.def_abstract_eval(_infer)
_primitive.def_impl(_evaluate)


def _lower_composed(context: Any, *tensors: Any, op: Op, values: tuple[Any, ...]) -> Any:
    rule = mlir.lower_fun(partial(_composed, op, values), multiple_results=True)
    return rule(context, *tensors)


def _lower(kernel: Any, context: Any, *tensors: Any, op: Op, values: tuple[Any, ...]) -> Any:
    exported = context.module_context.lowering_parameters.for_export
    call = None if exported else kernel(context, *tensors, op=op, values=values)
    return call or _lower_composed(context, *tensors, op=op, values=values)


def _lower_on_cpu(context: Any, *tensors: Any, op: Op, values: tuple[Any, ...]) -> Any:
    rule = mlir.lower_fun(partial(_call_native, op, values), multiple_results=True)
    return rule(context, *tensors)


mlir.register_lowering(_primitive, _lower_composed)
mlir.register_lowering(_primitive, partial(_lower, _lower_on_cpu), platform="cpu")


# --- the call ---


def _call_native(op: Op, values: tuple[Any, ...], *tensors: Any) -> tuple[Any, ...]:
    ints, floats = op.encode(values)
    shapes = op.shapes(*(tensor.shape for tensor in tensors), **op.named(values))
    results = [jax.ShapeDtypeStruct(shape, tensors[0].dtype) for shape in shapes]
    attributes = {"ints": np.array(ints, np.int64), "floats": np.array(floats, np.float64)}
    return tuple(jax.ffi.ffi_call(TARGET, results)(*tensors, op=op.name, **attributes))
