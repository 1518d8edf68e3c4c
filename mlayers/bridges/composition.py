# SPDX-License-Identifier: Apache-2.0
"""Ops on tensors of the active Keras backend, composed of keras.ops.

The one place that touches `keras.ops.custom_gradient`, and so the one that keeps to its rule. What
breaks otherwise differs by backend (README.md in this folder):

- positional tensors only; attributes are closed over; variables are converted before;
- one output, which is why a gradient op with two outputs never goes through it;
- the function that makes the gradient uses the arguments and nothing else computed on the way,
  or second derivatives are lost on torch;
- it returns a tuple, one gradient per argument;
- everything is checked before, because torch runs a forward that raises a second time;
- the decorated function is made once per op and attributes, because a new one would be traced anew.

Formulas use the operators `@`, `*`, `+` and avoid `keras.ops.matmul`, `minimum` and `where`: on
torch those compute float64 in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras

from mlayers.op import Op

_functions: dict[tuple[str, tuple[Any, ...]], Callable[..., Any]] = {}


def run(op: Op, tensors: Sequence[Any], values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Compute `op` on checked tensors; differentiable, under every transformation."""
    if op.gradient is None or _becomes_onnx():
        return compose(op, tensors, values)
    key = (op.name, values)
    function = _functions.get(key)
    if function is None:
        if len(_functions) >= 1024:  # an attribute that is another number in every call
            _functions.clear()
        function = _functions[key] = _with_gradient(op, values)
    return (function(*tensors),)


def tensor_of(array: Any) -> Any:
    """A variable's value, in the dtype the layer around it computes in; a tensor as it is."""
    if isinstance(array, keras.Variable):
        array = array.value
    # A tf.Variable has it. Asked of the type, because a tf.Tensor takes 1 µs to say no.
    return array.read_value() if hasattr(type(array), "read_value") else array


def widened(tensor: Any) -> Any:
    """A half type in float32, in which it is computed and so accumulated; others as they are."""
    half = keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16")
    return keras.ops.cast(tensor, "float32") if half else tensor


def narrowed(results: Sequence[Any], like: Any) -> tuple[Any, ...]:
    """Results in the dtype of `like`, the tensor that was given."""
    dtype = keras.backend.standardize_dtype(like.dtype)
    return tuple(keras.ops.cast(result, dtype) for result in results)


def compose(op: Op, tensors: Sequence[Any], values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The formula itself, with the gradient that the framework derives from it."""
    wide = [widened(tensor) for tensor in tensors]
    result = op.composition(keras.ops, *wide, **op.named(values))
    return narrowed(result if len(op.outputs) > 1 else (result,), tensors[0])


def _becomes_onnx() -> bool:
    """Whether torch translates to ONNX; `torch.clip`, for one, not inside an autograd function."""
    onnx = sys.modules.get("torch.onnx")
    return bool(getattr(onnx, "is_in_onnx_export", bool)())  # bool() is False: not here


# For torch.compile, as in native.py: it cannot trace how modules are looked up.
_becomes_onnx._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _with_gradient(op: Op, values: tuple[Any, ...]) -> Callable[..., Any]:
    """`op`, its attributes closed over, with its own gradient in place of the derived one."""
    gradient = op.gradient
    if gradient is None:
        raise ValueError(f"{op.name} declares no gradient")

    def function(*inputs: Any) -> tuple[Any, Callable[..., tuple[Any, ...]]]:
        def grad(*args: Any, upstream: Any = None) -> tuple[Any, ...]:
            # torch passes the saved inputs and the upstream by name; the others the upstream alone.
            saved = inputs if upstream is None else args
            named = dict(zip(op.inputs, saved, strict=True))
            named["grad"] = args[0] if upstream is None else upstream
            return compose(gradient, [named[name] for name in gradient.inputs], values)

        (output,) = compose(op, inputs, values)
        return output, grad

    decorated: Callable[..., Any] = keras.ops.custom_gradient(function)
    return decorated
