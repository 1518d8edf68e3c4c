# SPDX-License-Identifier: Apache-2.0
"""What every op does with its arguments: check them all, then hand over to dispatch.

The only place that checks. Words and classes of errors are the same for every library of arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlayers import dispatch
from mlayers.dispatch.arrays import FRAMEWORKS, device_of, dtype_name, library_of, shape_of
from mlayers.op import Op, Shape
from mlayers.ops._errors import shape_error, type_error, value_error

DTYPES = ("float16", "bfloat16", "float32", "float64")

OPS: dict[str, Op] = {}  # every declared op by name


def declare(op: Op) -> Op:
    """Enter an op into `OPS`, from which tests and saved models find it."""
    OPS[op.name] = op
    return op


def call(op: Op, arrays: Sequence[Any], values: Sequence[Any], out: Any = None) -> Any:
    """Check the arguments of `op` and compute it.

    Returns:
        One array, or a tuple of them where the op has several outputs.
    """
    checked = tuple(
        attribute.check(op.name, value)
        for attribute, value in zip(op.attributes, values, strict=True)
    )
    library = _check_library(op, arrays)
    _check_dtypes(op, arrays)
    shapes = output_shapes(op, [shape_of(array) for array in arrays], checked)
    outs = None if out is None else _check_out(op, library, arrays, shapes, out)
    if library == "symbolic":
        from mlayers.ops._symbolic import record

        return record(op, arrays, checked)
    if library == "numpy":
        arrays = [np.asarray(array) for array in arrays]
    results = dispatch.run(op, library, arrays, checked, shapes, outs)
    return results if len(op.outputs) > 1 else results[0]


def output_shapes(
    op: Op, shapes: Sequence[Shape | None], values: Sequence[Any]
) -> tuple[Shape, ...]:
    """The shapes of the outputs; raises where the inputs' shapes break the op's rules."""
    for name, shape in zip(op.inputs, shapes, strict=True):
        if shape is None:
            raise value_error(op.name, f"'{name}' must have a known rank", **{name: "unknown rank"})
    return op.shapes(*shapes, **op.named(values))


def _check_library(op: Op, arrays: Sequence[Any]) -> str:
    """All arrays belong to one library that can be served here; its name."""
    libraries = {}
    for name, array in zip(op.inputs, arrays, strict=True):
        library = library_of(array)
        if library is None:
            raise type_error(
                op.name,
                f"'{name}' must be an array of NumPy, CuPy, TensorFlow, JAX, torch or Keras",
                **{name: type(array)},
            )
        libraries[name] = library
    kinds = set(libraries.values())
    if "cupy" in kinds:
        raise type_error(
            op.name, "CuPy arrays need CUDA kernels, which this version does not have", **libraries
        )
    if kinds & {"keras", "symbolic", *FRAMEWORKS}:
        kinds = _check_backend(op, libraries)
    if len(kinds) > 1:
        names = " and ".join(f"'{name}'" for name in libraries)
        raise type_error(op.name, f"{names} must be arrays of one library", **libraries)
    (library,) = kinds
    _check_device(op, arrays)
    return library


def _check_backend(op: Op, libraries: dict[str, str]) -> set[str]:
    """Tensors must be the active Keras backend's, as variables are; returns the libraries left."""
    import keras

    active = keras.backend.backend()
    for name, library in libraries.items():
        if library in FRAMEWORKS and library != active:
            raise type_error(
                op.name,
                f"'{name}' is a {library} tensor, but Keras runs on the {active} backend; set the "
                f"environment variable KERAS_BACKEND={library} before Keras is imported to switch",
                **libraries,
            )
    kinds = {active if library == "keras" else library for library in libraries.values()}
    # A graph of KerasTensors may hold constants and variables of its backend.
    return {"symbolic"} if "symbolic" in kinds and kinds <= {"symbolic", active} else kinds


def _check_device(op: Op, arrays: Sequence[Any]) -> None:
    devices = [device_of(array) for array in arrays]
    placed = [device for device in devices if device is not None]
    if any(device != placed[0] for device in placed[1:]):
        names = " and ".join(f"'{name}'" for name in op.inputs)
        received = {n: str(d) for n, d in zip(op.inputs, devices, strict=True)}
        raise type_error(op.name, f"{names} must be on one device", **received)


def _check_dtypes(op: Op, arrays: Sequence[Any]) -> None:
    dtypes = {name: dtype_name(array) for name, array in zip(op.inputs, arrays, strict=True)}
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            rule = f"'{name}' must have dtype {', '.join(DTYPES[:-1])} or {DTYPES[-1]}"
            raise type_error(op.name, rule, **{f"{name}.dtype": dtype})
    if len(set(dtypes.values())) > 1:
        names = " and ".join(f"'{name}'" for name in dtypes)
        received = {f"{name}.dtype": dtype for name, dtype in dtypes.items()}
        raise type_error(op.name, f"{names} must have the same dtype", **received)


def _check_out(
    op: Op, library: str, arrays: Sequence[Any], shapes: Sequence[Shape], out: Any
) -> tuple[Any, ...]:
    """`out` fits: one array, or a tuple of them where the op has several outputs."""
    if library != "numpy":
        raise type_error(
            op.name, f"'out' is for NumPy arrays, not for {library} tensors", out=type(out)
        )
    outs = (out,) if len(op.outputs) == 1 else out
    if not isinstance(outs, tuple) or len(outs) != len(op.outputs):
        rule = f"'out' must be a tuple of {len(op.outputs)} arrays, {', '.join(op.outputs)}"
        raise type_error(op.name, rule, out=type(out))
    for target, shape in zip(outs, shapes, strict=True):
        if library_of(target) != "numpy":
            raise type_error(
                op.name, "'out' must be of the inputs' library, numpy", out=type(target)
            )
        if dtype_name(target) != dtype_name(arrays[0]):
            rule = f"'out' must have the inputs' dtype {dtype_name(arrays[0])}"
            raise type_error(op.name, rule, **{"out.dtype": dtype_name(target)})
        if target.shape != shape:
            raise shape_error(op.name, f"'out' must have shape {shape}", out=target.shape)
        if not target.flags.writeable:
            raise value_error(op.name, "'out' must be writable", **{"out.flags.writeable": False})
    if len(outs) > 1 and np.shares_memory(*outs):
        raise value_error(op.name, "the arrays of 'out' must not share memory", out="shared memory")
    return outs
