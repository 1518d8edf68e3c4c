# SPDX-License-Identifier: Apache-2.0
"""Checks of constructor arguments: each returns the value to keep, or says what is wrong."""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np

from mlayers import activations


def refuse(owner: str, argument: str, rule: str, received: Any) -> ValueError:
    """Returns the error: who, which argument, the rule, what came."""
    return ValueError(f"{owner}: '{argument}' {rule}. Received: {received!r}")


def dim(owner: str, argument: str, value: Any) -> int:
    """A number of units."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise refuse(owner, argument, "must be an integer >= 1", value)
    return int(value)


def dims(owner: str, argument: str, values: Any) -> list[int]:
    """The numbers of units of some layers, at least one."""
    if not isinstance(values, list | tuple) or not values:
        raise refuse(owner, argument, "must be a list of at least one integer", values)
    return [dim(owner, argument, value) for value in values]


def flag(owner: str, argument: str, value: Any) -> bool | None:
    """A switch; `None` is off and stays `None`."""
    if value is not None and not isinstance(value, bool):
        raise refuse(owner, argument, "must be True or False", value)
    return value


def fraction(owner: str, argument: str, value: Any) -> float:
    """A momentum."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise refuse(owner, argument, "must be a number from 0 to 1", value)
    return float(value)


def finite(owner: str, argument: str, value: Any) -> float:
    """A number that float32 has room for."""
    limit = float(np.finfo("float32").max)
    if isinstance(value, bool) or not isinstance(value, Real) or not abs(float(value)) <= limit:
        raise refuse(owner, argument, "must be a finite number in the range of float32", value)
    return float(value)


def segments(owner: str, names: Any, sizes: Any) -> tuple[list[str] | None, list[int] | None]:
    """The fields that an input falls into: their names and widths, or `None` for both."""
    if names is None and sizes is None:
        return None, None
    if names is None or sizes is None:
        raise refuse(
            owner, "segment_names", "and 'segment_sizes' go together, one is None", (names, sizes)
        )
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
        raise refuse(owner, "segment_names", "must be a list of strings", names)
    if not names or len(set(names)) != len(names):
        raise refuse(owner, "segment_names", "must be different names, at least one", names)
    if not isinstance(sizes, list | tuple) or not all(
        isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 0 for n in sizes
    ):
        raise refuse(owner, "segment_sizes", "must be a list of integers >= 0", sizes)
    if len(sizes) != len(names):
        rule = f"must have one size for each of the {len(names)} names"
        raise refuse(owner, "segment_sizes", rule, sizes)
    return list(names), [int(size) for size in sizes]


def clipping(owner: str, argument: str, value: Any) -> dict[str, float] | None:
    """The limits of batch renormalisation."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not set(value) <= {"rmin", "rmax", "dmax"}:
        rule = "must be None or a dict with keys out of 'rmin', 'rmax', 'dmax'"
        raise refuse(owner, argument, rule, value)
    limits = {}
    for key, limit in value.items():
        if isinstance(limit, bool) or not isinstance(limit, Real) or not float(limit) >= 0:
            raise refuse(owner, argument, f"must have numbers >= 0, {key!r} has not", value)
        limits[key] = float(limit)
    if limits.get("rmin", 0.0) > limits.get("rmax", float("inf")):
        raise refuse(owner, argument, "must have rmin <= rmax", value)
    return limits


def regularizer(owner: str, argument: str, value: Any) -> Any:
    """A Keras regularizer from an object, a name or a config."""
    try:
        return keras.regularizers.get(value)
    except (TypeError, ValueError) as error:
        raise refuse(owner, argument, "must be a Keras regularizer", value) from error


def initializer(owner: str, argument: str, value: Any) -> Any:
    """A Keras initializer from an object, a name or a config."""
    try:
        return keras.initializers.get(value)
    except (TypeError, ValueError) as error:
        raise refuse(owner, argument, "must be a Keras initializer", value) from error


def activation(owner: str, argument: str, value: Any) -> Any:
    """A layer that computes the activation, or `None`."""
    try:
        return activations.get(value)
    except ValueError as error:
        raise refuse(owner, argument, f"is not known ({error})", value) from error


def per_layer(owner: str, argument: str, values: Any, n_layers: int) -> list[Any]:
    """A list with one entry per layer."""
    if len(values) != n_layers:
        raise ValueError(
            f"{owner}: '{argument}' must have one entry per layer ({n_layers}). "
            f"Received: {len(values)} entries {list(values)!r}"
        )
    return list(values)
