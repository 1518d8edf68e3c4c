# SPDX-License-Identifier: Apache-2.0
"""Rules on shapes that several ops share. A size is None where it is not known while tracing."""

from __future__ import annotations

from typing import Any

from mlayers.op import Shape
from mlayers.ops._errors import shape_error


def check_rank_2(op: str, name: str, shape: Shape, axes: str) -> None:
    """`shape` has two axes, and the second is known."""
    if len(shape) != 2:
        raise shape_error(op, f"'{name}' must have rank 2, {axes}", **{name: shape})
    if shape[1] is None:
        raise shape_error(op, f"'{name}' must have a known width", **{name: shape})


def check_same_batch(op: str, **shapes: Shape) -> Any:
    """All shapes begin with the same size, which is returned."""
    known = {name: shape[0] for name, shape in shapes.items() if shape[0] is not None}
    sizes = list(known.values())
    if any(size != sizes[0] for size in sizes[1:]):
        names = " and ".join(f"'{name}'" for name in shapes)
        raise shape_error(op, f"{names} must have the same batch size", **shapes)
    return sizes[0] if sizes else None


def check_same_shape(op: str, **shapes: Shape) -> Shape:
    """All shapes agree; what any of them knows is returned."""
    names = " and ".join(f"'{name}'" for name in shapes)
    first, *others = shapes.values()
    merged = list(first)
    for other in others:
        if not agree(tuple(merged), other):
            raise shape_error(op, f"{names} must have the same shape", **shapes)
        merged = [a if a is not None else b for a, b in zip(merged, other, strict=True)]
    return tuple(merged)


def check_grad(op: str, forward: str, grad: Shape, output: Shape) -> None:
    """The upstream gradient is shaped as the forward's output."""
    if not agree(grad, output):
        rule = f"'grad' must be shaped as the output of {forward}, {tuple(output)}"
        raise shape_error(op, rule, grad=grad)


def agree(a: Shape, b: Shape) -> bool:
    """Whether two shapes can be the same, given what is known of them."""
    return len(a) == len(b) and all(
        m is None or n is None or m == n for m, n in zip(a, b, strict=True)
    )
