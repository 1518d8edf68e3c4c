# SPDX-License-Identifier: Apache-2.0
"""What an op says of itself, once. Dispatch, bridges, symbolic calls and tests derive from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# Bytes from which on an output may well come from fresh memory each time. The kernels keep theirs
# in torch (bridges/torch_memory.h) or ask for huge pages, which weighs more than fusion: at 16 MB
# 0.8 to 4.8 times as fast in torch, at 134 MB 7 times.
LARGE = 8 << 20

Shape = tuple[Any, ...]  # of int, None where unknown while tracing, or a framework's symbolic size


class Attribute(Protocol):
    """An argument that is not an array: how to check it, and how a kernel receives it."""

    @property
    def name(self) -> str:
        """The argument's name."""

    @property
    def kind(self) -> str:
        """What a kernel receives: `"int"`, `"float"` or `"int[]"`."""

    def check(self, op: str, value: Any) -> Any:
        """Return `value` in its one hashable form, or raise ValueError or TypeError."""

    def encode(self, value: Any) -> Any:
        """A checked value as an int, a float or a tuple of ints."""

    def decode(self, code: Any) -> Any:
        """The value that `encode` made into `code`."""


@dataclass(frozen=True, eq=False, repr=False)
class Op:
    """An op: its arguments, its shapes, and its formula twice.

    `axes` names the axes of inputs and outputs, as in einsum: `"bl,br->bo"`. Along `b` rows are
    independent, so a bridge may split a batch over devices or fold more axes into it; an output
    without `b` is a sum over the batch. `"..."` is any shape, element by element.

    `reference` is the formula at its plainest, in NumPy, evaluated in float64: the oracle.
    `composition` is the formula in array operations that NumPy and keras.ops share; its first
    argument is that namespace. It is what runs where there is no kernel.

    The gradient is an op of its own. Its inputs are named `grad` for the upstream gradient or as
    the forward's inputs, and it returns one gradient for each of those, in their order.

    Where the composition was measured to be faster than the kernel, it is taken instead. Two fields
    say where; the figures stand beside them. `kernel_wins` is a rule over the library, the input
    shapes (all sizes known) and the attributes. `fusible` is a rule over the library and the
    attributes, for compilers that make more of the composition, because they fuse it with what is
    around it: torch.compile ("torch"), as long as no output is LARGE, and on a GPU, whatever the
    size, torch.compile and XLA ("cuda").
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    axes: str
    shapes: Callable[..., tuple[Shape, ...]]  # (input shapes, **attributes) -> output shapes
    reference: Callable[..., Any]
    composition: Callable[..., Any]
    gradient: Op | None = None
    fusible: Callable[..., bool] | None = None
    kernel_wins: Callable[..., bool] | None = None

    def __repr__(self) -> str:
        return self.name

    @property
    def module(self) -> str:
        """The name the op goes by in its four rooms: ffm and ffm_grad both live in `ffm`."""
        return self.name.removesuffix("_grad")

    @property
    def input_axes(self) -> list[str]:
        """The axes of each input, such as `["bl", "br"]`."""
        return self.axes.split("->")[0].split(",")

    @property
    def output_axes(self) -> list[str]:
        """The axes of each output, such as `["bo"]`."""
        return self.axes.split("->")[1].split(",")

    def folds(self, mapped: Sequence[bool]) -> bool:
        """Whether one more leading axis of the inputs that are `mapped` can join the batch."""
        if self.input_axes[0] == "...":
            return True
        inputs = zip(self.input_axes, mapped, strict=True)
        return all(axes.startswith("b") for axes in self.output_axes) and all(
            axes.startswith("b") for axes, is_mapped in inputs if is_mapped
        )

    def takes_kernel(self, library: str, inputs: Sequence[Shape], values: Sequence[Any]) -> bool:
        """Whether the kernel is the faster path for inputs of these shapes, by `kernel_wins`."""
        if self.kernel_wins is None or not all(
            isinstance(size, int) for shape in inputs for size in shape
        ):
            return True
        return self.kernel_wins(library, *inputs, *values)

    def is_fused(self, library: str, values: Sequence[Any]) -> bool:
        """Whether a compiler is to have the formula, by `fusible`."""
        return self.fusible is not None and self.fusible(library, *values)

    def named(self, values: Sequence[Any]) -> dict[str, Any]:
        """Attribute values by name."""
        return dict(zip((a.name for a in self.attributes), values, strict=True))

    def encode(self, values: Sequence[Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Attribute values as a kernel receives them: scalars in declared order, lists last."""
        codes = [(a.kind, a.encode(v)) for a, v in zip(self.attributes, values, strict=True)]
        ints = [code for kind, code in codes if kind == "int"]
        lists = [number for kind, code in codes if kind == "int[]" for number in code]
        return (*ints, *lists), tuple(code for kind, code in codes if kind == "float")

    def decode(self, ints: Sequence[int], floats: Sequence[float]) -> tuple[Any, ...]:
        """The attribute values that `encode` made into `ints` and `floats`."""
        scalars = sum(attribute.kind == "int" for attribute in self.attributes)
        codes: dict[str, Iterator[Any]] = {
            "int": iter(ints[:scalars]),
            "float": iter(floats),
            "int[]": iter([tuple(ints[scalars:])]),
        }
        return tuple(a.decode(next(codes[a.kind])) for a in self.attributes)


OPS: dict[str, Op] = {}  # every declared op by name


def declare(op: Op) -> Op:
    """Enter an op into `OPS`, where bridges, tests and saved models find it."""
    OPS[op.name] = op
    return op
