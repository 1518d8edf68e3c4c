# SPDX-License-Identifier: Apache-2.0
"""Inside JAX's `shard_map`: along which axes of the mesh a value differs. Used by jax.py alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax


def _varying(array: Any) -> frozenset[Any]:
    """The mesh axes along which a value differs inside `shard_map`; JAX moved where it says so."""
    kind = getattr(array, "aval", array)
    manual = getattr(kind, "mat", None)
    return frozenset(getattr(kind, "vma", ()) if manual is None else manual.varying)


def varying_alike(tensors: Sequence[Any]) -> Sequence[Any]:
    """All inputs varying along the same axes, as JAX's own operations make them by themselves.

    The gradient of an input that did not vary is then summed over the mesh, by JAX.
    """
    varying = [_varying(tensor) for tensor in tensors]
    union = frozenset().union(*varying)
    if all(axes == union for axes in varying):
        return tensors
    cast = partial(jax.lax.pcast, to="varying") if hasattr(jax.lax, "pcast") else jax.lax.pvary
    return [
        cast(tensor, tuple(union - axes)) if union - axes else tensor
        for tensor, axes in zip(tensors, varying, strict=True)
    ]


def array_type(shape: Any, like: Any) -> Any:
    """The type of a result: of the dtype of an input, and varying along the same axes."""
    if _varying(like):
        return like.update(shape=shape, weak_type=False)
    return jax.core.ShapedArray(shape, like.dtype)
