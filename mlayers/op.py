# SPDX-License-Identifier: Apache-2.0
"""What an op says of itself, once. Dispatch, bridges, symbolic calls and tests derive from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Shape = tuple[Any, ...]  # of int, None where unknown while tracing, or a framework's symbolic size


class Attribute(Protocol):
    """An argument that is not an array: how to check it, and how a kernel receives it."""

    @property
    def name(self) -> str:
        """The argument's name."""

    def check(self, op: str, value: Any) -> Any:
        """Return `value` in its one hashable form, or raise ValueError or TypeError."""

    def encode(self, value: Any) -> tuple[list[int], list[float]]:
        """`value` as integers and reals for the C struct of cython_cpu/call.h."""


@dataclass(frozen=True, eq=False)
class Op:
    """An op: its arguments, its shapes, and its formula twice.

    `reference` is the formula at its plainest, in NumPy, evaluated in float64: the oracle.
    `composition` is the formula in array operations that NumPy and keras.ops share; its first
    argument is that namespace. It is what runs where there is no kernel.

    The gradient is an op of its own. Its inputs are named `grad` for the upstream gradient or as
    the forward's inputs, and it returns one gradient for each of those, in their order.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    shapes: Callable[..., tuple[Shape, ...]]  # (input shapes, **attributes) -> output shapes
    reference: Callable[..., Any]
    composition: Callable[..., Any]
    gradient: Op | None = None

    @property
    def module(self) -> str:
        """The name the op goes by in its four rooms: ffm and ffm_grad both live in `ffm`."""
        return self.name.removesuffix("_grad")

    def named(self, values: Sequence[Any]) -> dict[str, Any]:
        """Attribute values by name."""
        return dict(zip((a.name for a in self.attributes), values, strict=True))

    def encode(self, values: Sequence[Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Attribute values as a kernel receives them: scalars in declared order, lists last."""
        scalars: list[int] = []
        lists: list[int] = []
        reals: list[float] = []
        for attribute, value in zip(self.attributes, values, strict=True):
            ints, floats = attribute.encode(value)
            (lists if isinstance(value, tuple) else scalars).extend(ints)
            reals.extend(floats)
        return tuple(scalars + lists), tuple(reals)
