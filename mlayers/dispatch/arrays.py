# SPDX-License-Identifier: Apache-2.0
"""Whose array is it? Answered from `sys.modules` and the type; nothing is imported for it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from mlayers.op import Shape

ARRAYS = ("numpy", "cupy")  # libraries whose calls take `out=`
FRAMEWORKS = ("tensorflow", "jax", "torch")

torch: Any = None  # the package, from its import on: know_torch
_library_of_type: dict[type, str | None] = {}
_name_of_dtype: dict[Any, str] = {}  # of NumPy and JAX: NumPy takes a microsecond to make one


def know_torch() -> None:
    """To be called once torch has been imported; mlayers sees to it."""
    global torch
    torch = sys.modules["torch"]


def traced_by_dynamo() -> bool:
    """Whether torch.compile is tracing this call; to be asked where there is a tensor of torch."""
    return bool(torch.compiler.is_dynamo_compiling())


def library_of(array: Any) -> str | None:
    """The library an array belongs to, or None where it is no array we take.

    Returns:
        `"numpy"`, `"cupy"`, `"tensorflow"`, `"jax"`, `"torch"`; `"keras"` for a Keras variable,
        which belongs to the active backend, and `"symbolic"` for a KerasTensor.
    """
    # First, and not by what is known: torch.compile, which traces this, makes every entry of that
    # dict, and that CuPy is not loaded yet, a condition of its graph. Nor by `sys.modules`, through
    # thousands of whose entries it would go for each call: half of the time to trace an op.
    if torch is not None and isinstance(array, torch.Tensor):
        return "torch"
    kind = type(array)
    if kind not in _library_of_type:
        _library_of_type[kind] = _find_library(array)
    return _library_of_type[kind]


def _find_library(array: Any) -> str | None:
    if isinstance(array, np.ndarray):
        # A masked array would lose its mask without a word.
        return None if isinstance(array, np.ma.MaskedArray) else "numpy"
    for library, names in (
        ("torch", ("Tensor",)),
        ("cupy", ("ndarray",)),
        ("jax", ("Array",)),
        ("tensorflow", ("Tensor", "Variable")),
    ):
        module = sys.modules.get(library)
        types = tuple(getattr(module, name, ()) for name in names) if module else ()
        if types and isinstance(array, types):
            if library == "torch":
                know_torch()
            return library
    keras = sys.modules.get("keras")
    if keras is not None:
        if isinstance(array, keras.KerasTensor):
            return "symbolic"
        if isinstance(array, keras.Variable):
            return "keras"
    return None


def dtype_name(array: Any) -> str:
    """`float32` and the like, whatever library the array belongs to."""
    dtype = array.dtype
    if not isinstance(dtype, np.dtype):
        return str(getattr(dtype, "name", dtype)).removeprefix("torch.")
    if dtype not in _name_of_dtype:
        _name_of_dtype[dtype] = dtype.name
    return _name_of_dtype[dtype]


def shape_of(array: Any) -> Shape | None:
    """The shape as a tuple, None for sizes not known while tracing, None for an unknown rank."""
    shape = array.shape
    rank = getattr(shape, "rank", 0)  # of TensorFlow's TensorShape, the only one that may not know
    return None if rank is None else tuple(shape)


def device_of(array: Any) -> Any:
    """Where the array lives, for libraries that refuse to mix devices; None where it may move."""
    library = library_of(array)
    if library in ("torch", "cupy"):
        return array.device
    # JAX moves an array freely unless it was put somewhere; a tracer does not say.
    if library == "jax" and not isinstance(array, sys.modules["jax"].core.Tracer):
        return array.sharding.device_set if array.committed else None
    return None
