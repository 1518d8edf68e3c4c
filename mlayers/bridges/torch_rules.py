# SPDX-License-Identifier: Apache-2.0
"""What a torch op of ours does under torch's transformations, derived from its declaration.

Used by torch.py alone. What torch.library makes with register_autograd and register_vmap fails
under torch.func, so this does what they do, with the private names of torch that they are made of.
All are looked up when this file is imported: a torch without one of them composes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._functorch.autograd_function as _functorch
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.autograd import forward_ad

from mlayers.bridges import native
from mlayers.config import chosen_path
from mlayers.op import LARGE, Op

# As torch's own ops are differentiated, one level at a time; torch.func refuses to meet an ordinary
# torch.autograd.Function inside an op.
_SingleLevelFunction: Any = torch.autograd.function._SingleLevelFunction
_allow_single_level = _functorch.enable_single_level_autograd_function
_transforms_active = torch._C._are_functorch_transforms_active
_any_requires_grad = torch._C._any_requires_grad
_BelowAutograd = torch._C._AutoDispatchBelowAutograd
_BELOW_AUTOGRAD = torch._C._after_autograd_keyset
_unwrap_batched = _functorch.unwrap_batched
_TracingContext = torch._guards.TracingContext  # of the graph that torch.compile is making
_map_once = _functorch.custom_function_call_vmap_helper

KINDS = ("int", "float", "int[]")  # of attributes, in the order of a torch op's arguments

Overloads = dict[str, Any]  # op -> its torch op


def kernels(op: Op, overloads: Overloads) -> dict[str, Callable[..., Any]]:
    """What torch is to run in place of the kernel, by the dispatch key it does so for."""
    return {
        "Autograd": _autograd_kernel(op, overloads),
        "FuncTorchBatched": _vmap_kernel(op, overloads),
    }


# --- attributes, as torch passes them: scalars first, a list as one argument at the end ---


def encoded(op: Op, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Attribute values as arguments of the torch op."""
    ints, floats = op.encode(values)
    scalars = count(op, "int")
    lists = (ints[scalars:],) if count(op, "int[]") else ()
    return (*ints[:scalars], *floats, *lists)


encoded_before = functools.lru_cache(maxsize=1024)(encoded)  # which torch.compile cannot trace


def decoded(op: Op, codes: Sequence[Any]) -> tuple[Any, ...]:
    """The attribute values that `encoded` made into arguments."""
    n_ints, n_floats = count(op, "int"), count(op, "float")
    scalars = codes[: n_ints + n_floats]
    lists = [number for numbers in codes[n_ints + n_floats :] for number in numbers]
    return op.decode([*scalars[:n_ints], *lists], scalars[n_ints:])


def count(op: Op, kind: str) -> int:
    """How many attributes are of this kind."""
    return sum(attribute.kind == kind for attribute in op.attributes)


def composed(op: Op, codes: Sequence[Any], *tensors: Any) -> tuple[Any, ...]:
    """The formula, with the derivatives and the mapping that torch finds itself."""
    from mlayers.bridges import composition  # which imports Keras

    return composition.compose(op, tensors, decoded(op, codes))


def packed(op: Op, results: Any) -> tuple[Any, ...]:
    """What a torch op returned, always as a tuple."""
    return results if len(op.outputs) > 1 else (results,)


def unpacked(op: Op, outputs: tuple[Any, ...]) -> Any:
    """What a torch op returns: with one output, that alone."""
    return outputs if len(op.outputs) > 1 else outputs[0]


# --- gradients ---


def _autograd_kernel(op: Op, overloads: Overloads) -> Callable[..., Any]:
    """What torch runs before the kernel: it notes how to differentiate, where that is wanted."""
    n = len(op.inputs)
    no_gradient = (None,) * len(op.attributes)  # each is one argument

    def differentiate(ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        grads = gradients(op, overloads, ctx.saved_tensors, ctx.codes, upstream)
        return (None, *grads, *no_gradient)

    class Differentiable(_SingleLevelFunction):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, keyset: Any, *arguments: Any) -> Any:
            ctx.save_for_backward(*arguments[:n])
            ctx.codes = arguments[n:]
            return below(keyset, arguments)

        # Compiled by itself it would read the saved tensors twice, which checkpoints forbid.
        backward = staticmethod(torch.compiler.disable(differentiate))

    def below(keyset: Any, arguments: Sequence[Any]) -> Any:
        with _BelowAutograd():
            if op.fusible is not None and _is_fused(op, arguments):
                return unpacked(op, composed(op, arguments[n:], *arguments[:n]))
            overload = overloads[op.name]
            return overload.redispatch(keyset & _BELOW_AUTOGRAD, *arguments)

    def kernel(keyset: Any, *arguments: Any) -> Any:
        if forward_ad._current_level >= 0 and any(map(_has_tangent, arguments[:n])):
            return _forward_mode(op, arguments)
        if torch.is_grad_enabled() and _any_requires_grad(*arguments):
            if not _transforms_active():
                return Differentiable.apply(keyset, *arguments)
            with _allow_single_level():
                return Differentiable.apply(keyset, *arguments)
        return below(keyset, arguments)

    return kernel


def _is_fused(op: Op, arguments: Sequence[Any]) -> bool:
    """Whether torch.compile is making a graph in which it would fuse the formula."""
    # Not torch.compiler.is_compiling(), which before torch 2.13 is true while dynamo traces alone.
    if _TracingContext.try_get() is None or torch.compiler.is_exporting():
        return False
    if chosen_path() != "auto":
        return False
    tensors, codes = arguments[: len(op.inputs)], arguments[len(op.inputs) :]
    values = decoded(op, codes)
    if tensors[0].device.type == "cuda":  # where fresh memory costs nothing, however large
        return op.is_fused("cuda", values)
    shapes = op.shapes(*(tuple(t.shape) for t in tensors), *values)
    largest = max([math.prod(shape) for shape in shapes]) * tensors[0].element_size()
    return op.is_fused("torch", values) and largest < LARGE


def gradients(
    op: Op,
    overloads: Overloads,
    inputs: Sequence[Any],
    codes: Sequence[Any],
    upstream: Sequence[Any],
) -> tuple[Any, ...]:
    """One gradient for each input, itself differentiable."""
    if op.gradient is None:
        formula = functools.partial(composed, op, codes)
        derived: tuple[Any, ...] = torch.func.vjp(formula, *inputs)[1](tuple(upstream))
        return derived
    known = (*inputs, upstream[0])
    tensors = [known[i] for i in gradient_inputs(op, op.gradient)]
    if op.gradient.kernel_wins is not None:
        values = decoded(op, codes)
        library = "torch" if tensors[0].device.type == "cpu" else "cuda"
        if not native.gradient_takes_kernel(op.gradient, library, tensors, values):
            return composed(op.gradient, codes, *tensors)
    grads = overloads[op.gradient.name](*tensors, *codes)
    return grads if len(op.inputs) > 1 else (grads,)


@functools.cache
def gradient_inputs(op: Op, gradient: Op) -> list[int]:
    """Where the gradient's inputs are among those of the op and, behind them, the upstream."""
    return [(*op.inputs, "grad").index(name) for name in gradient.inputs]


def _has_tangent(tensor: Any) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None


def _forward_mode(op: Op, arguments: Sequence[Any]) -> Any:
    """torch.func.jvp and the like: torch differentiates the formula."""
    if op.gradient is not None and "grad" not in op.gradient.inputs:
        raise NotImplementedError(
            f"{op.name}: its gradient is a rule for reverse mode, forward mode is not defined"
        )
    n = len(op.inputs)
    return unpacked(op, composed(op, arguments[n:], *arguments[:n]))


# --- vmap ---


def _vmap_kernel(op: Op, overloads: Overloads) -> Callable[..., Any]:
    """What torch runs on mapped tensors."""
    n = len(op.inputs)
    fold = functools.partial(_fold, op, overloads)

    def kernel(keyset: Any, *arguments: Any) -> Any:
        interpreter = retrieve_current_functorch_interpreter()
        _, dims = _unwrap_batched(arguments[:n], interpreter.level())
        if not op.folds(
            [dim is not None for dim in dims]
        ):  # torch knows how to map each operation of the formula
            return unpacked(op, composed(op, arguments[n:], *arguments[:n]))
        return _map_once(interpreter, fold, overloads[op.name], *arguments)

    return kernel


def _fold(
    op: Op, overloads: Overloads, info: Any, in_dims: Sequence[int | None], *arguments: Any
) -> Any:
    """Compute all with one call: outputs, and which of their axes is the mapped one."""
    n, size = len(op.inputs), info.batch_size
    folded = []
    for tensor, dim, axes in zip(arguments[:n], in_dims, op.input_axes, strict=False):
        if axes == "..." or axes.startswith("b"):
            tensor = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        if axes.startswith("b"):
            batch = tensor.shape[1]
            tensor = tensor.reshape(size * batch, *tensor.shape[2:])
        folded.append(tensor)
    results = overloads[op.name](*folded, *arguments[n:])
    outputs = tuple(
        result.reshape(size, batch, *result.shape[1:]) if axes.startswith("b") else result
        for result, axes in zip(packed(op, results), op.output_axes, strict=True)
    )
    return unpacked(op, outputs), unpacked(op, (0,) * len(outputs))
