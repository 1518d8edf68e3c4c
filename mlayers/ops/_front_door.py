# SPDX-License-Identifier: Apache-2.0
"""What every op does with its arguments: check them all, then hand over to dispatch.

The only place that checks. Words and classes of errors are the same for every library of arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlayers import dispatch
from mlayers.bridges import RECALL
from mlayers.dispatch import cpu
from mlayers.dispatch.arrays import (
    ARRAYS,
    FRAMEWORKS,
    device_of,
    dtype_name,
    library_of,
    shape_of,
    traced_by_dynamo,
)
from mlayers.op import Op, Shape
from mlayers.ops._errors import shape_error, type_error, value_error

DTYPES = ("float16", "bfloat16", "float32", "float64")


def call(op: Op, arrays: Sequence[Any], values: Sequence[Any], out: Any = None) -> Any:
    """Check the arguments of `op` and compute it.

    Returns:
        One array, or a tuple of them where the op has several outputs.
    """
    library = library_of(arrays[0])
    if library == "numpy":
        known = cpu.recall(op, arrays, values, out)
        if known is not None:
            return known
    elif out is None and library == "torch" and not traced_by_dynamo():
        # Dynamo, which would make RECALL a condition of its graph, is not to see it.
        recall = RECALL.get("torch")
        known = None if recall is None else recall(op, arrays, values)
        if known is not None:
            return known
    checked = tuple([a.check(op.name, v) for a, v in zip(op.attributes, values, strict=True)])
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


# TensorFlow's autograph would rewrite all that is called from here, for 6 ms per call traced. This
# is its mark of a function that it need not touch.
vars(call)["autograph_info__"] = {}


def output_shapes(
    op: Op, shapes: Sequence[Shape | None], values: Sequence[Any]
) -> tuple[Shape, ...]:
    """The shapes of the outputs; raises where the inputs' shapes break the op's rules."""
    if None in shapes:
        name = op.inputs[shapes.index(None)]
        raise value_error(op.name, f"'{name}' must have a known rank", **{name: "unknown rank"})
    return op.shapes(*shapes, *values)


def _check_library(op: Op, arrays: Sequence[Any]) -> str:
    """All arrays belong to one library that can be served here; its name."""
    libraries = [library_of(array) for array in arrays]
    library = libraries[0]
    if library is None or not _is_served(library) or not _all_equal(libraries):
        library = _check_libraries(op, arrays, dict(zip(op.inputs, libraries, strict=True)))
    if library not in ("numpy", "tensorflow"):  # which move arrays as they need
        _check_device(op, arrays)
    return library


def _all_equal(words: list[Any]) -> bool:
    return words[1:] == words[:-1]  # each is the next; faster than a loop, and torch can trace it


def _is_served(library: str) -> bool:
    """Whether arrays that are all of this library need no further look: the usual case."""
    return library in ARRAYS or (library in FRAMEWORKS and library == _active_backend())


def _active_backend() -> str:
    import keras

    return str(keras.backend.backend())


def _check_libraries(op: Op, arrays: Sequence[Any], found: dict[str, str | None]) -> str:
    """The one library that serves arrays of these libraries."""
    libraries = {}
    for (name, library), array in zip(found.items(), arrays, strict=True):
        if library is None:
            raise type_error(
                op.name,
                f"'{name}' must be an array of NumPy, CuPy, TensorFlow, JAX, torch or Keras",
                **{name: type(array)},
            )
        libraries[name] = library
    kinds = set(libraries.values())
    if kinds & {"keras", "symbolic", *FRAMEWORKS}:
        kinds = _check_backend(op, libraries)
    if len(kinds) > 1:
        names = " and ".join(f"'{name}'" for name in libraries)
        raise type_error(op.name, f"{names} must be arrays of one library", **libraries)
    (library,) = kinds
    return library


def _check_backend(op: Op, libraries: dict[str, str]) -> set[str]:
    """Tensors must be the active Keras backend's, as variables are; returns the libraries left."""
    active = _active_backend()
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
    found = [dtype_name(array) for array in arrays]
    if found[0] in DTYPES and _all_equal(found):
        return  # the usual case
    dtypes = dict(zip(op.inputs, found, strict=True))
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            rule = f"'{name}' must have dtype {', '.join(DTYPES[:-1])} or {DTYPES[-1]}"
            raise type_error(op.name, rule, **{f"{name}.dtype": dtype})
    names = " and ".join(f"'{name}'" for name in dtypes)
    received = {f"{name}.dtype": dtype for name, dtype in dtypes.items()}
    raise type_error(op.name, f"{names} must have the same dtype", **received)


def _check_out(
    op: Op, library: str, arrays: Sequence[Any], shapes: Sequence[Shape], out: Any
) -> tuple[Any, ...]:
    """`out` fits: one array, or a tuple of them where the op has several outputs."""
    if library not in ARRAYS:
        rule = f"'out' is for NumPy and CuPy arrays, not for {library} tensors"
        raise type_error(op.name, rule, out=type(out))
    outs = (out,) if len(op.outputs) == 1 else out
    if not isinstance(outs, tuple) or len(outs) != len(op.outputs):
        rule = f"'out' must be a tuple of {len(op.outputs)} arrays, {', '.join(op.outputs)}"
        raise type_error(op.name, rule, out=type(out))
    for target, shape in zip(outs, shapes, strict=True):
        if library_of(target) != library:
            rule = f"'out' must be of the inputs' library, {library}"
            raise type_error(op.name, rule, out=type(target))
        if device_of(target) != device_of(arrays[0]):
            rule = f"'out' must be on the inputs' device, {device_of(arrays[0])}"
            raise type_error(op.name, rule, out=device_of(target))
        if dtype_name(target) != dtype_name(arrays[0]):
            rule = f"'out' must have the inputs' dtype {dtype_name(arrays[0])}"
            raise type_error(op.name, rule, **{"out.dtype": dtype_name(target)})
        if target.shape != shape:
            raise shape_error(op.name, f"'out' must have shape {shape}", out=target.shape)
        if library == "numpy" and not target.flags.writeable:  # CuPy's always are
            raise value_error(op.name, "'out' must be writable", **{"out.flags.writeable": False})
    if len(outs) > 1 and _share_memory(library, outs):
        raise value_error(op.name, "the arrays of 'out' must not share memory", out="shared memory")
    return outs


def _share_memory(library: str, outs: tuple[Any, ...]) -> bool:
    module = sys.modules[library]  # may_share_memory compares bounds, which costs nothing
    return bool(module.may_share_memory(*outs) and module.shares_memory(*outs))
