# SPDX-License-Identifier: Apache-2.0
"""The kinds of argument that are not arrays: each checks a value and encodes it for a kernel."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlayers.ops._errors import type_error, value_error


def _as_int(value: Any) -> int | None:
    """`value` as an int where it is an integer of any library, but not a bool; else None."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


@dataclass(frozen=True)
class PositiveInt:
    """An integer of at least 1."""

    name: str
    kind = "int"

    def check(self, op: str, value: Any) -> int:
        number = _as_int(value)
        if number is None:
            raise type_error(op, f"'{self.name}' must be an integer", **{self.name: value})
        if number < 1:
            raise value_error(op, f"'{self.name}' must be at least 1", **{self.name: value})
        return number

    def encode(self, value: int) -> int:
        return value

    def decode(self, code: int) -> int:
        return code


@dataclass(frozen=True)
class Choice:
    """One of some words; a kernel receives its position."""

    name: str
    words: tuple[str, ...]
    kind = "int"

    def check(self, op: str, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            words = " or ".join(repr(word) for word in self.words)
            raise value_error(op, f"'{self.name}' must be {words}", **{self.name: value})
        return value

    def encode(self, value: str) -> int:
        return self.words.index(value)

    def decode(self, code: int) -> str:
        return self.words[code]


@dataclass(frozen=True)
class Flag:
    """True or False."""

    name: str
    kind = "int"

    def check(self, op: str, value: Any) -> bool:
        if type(value).__name__ not in ("bool", "bool_"):  # Python's and NumPy's
            raise type_error(op, f"'{self.name}' must be True or False", **{self.name: value})
        return bool(value)

    def encode(self, value: bool) -> int:
        return int(value)

    def decode(self, code: int) -> bool:
        return bool(code)


@dataclass(frozen=True)
class FiniteFloat:
    """A real number, neither infinite nor NaN."""

    name: str
    kind = "float"

    def check(self, op: str, value: Any) -> float:
        if not isinstance(value, (float, int, np.floating, np.integer)) or isinstance(value, bool):
            raise type_error(op, f"'{self.name}' must be a real number", **{self.name: value})
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not -math.inf < number < math.inf:  # and not NaN; torch.compile can trace this
            raise value_error(op, f"'{self.name}' must be finite", **{self.name: value})
        return number

    def encode(self, value: float) -> float:
        return value

    def decode(self, code: float) -> float:
        return code


@dataclass(frozen=True)
class Sizes:
    """A sequence of at least one integer, none negative."""

    name: str
    kind = "int[]"

    def check(self, op: str, value: Any) -> tuple[int, ...]:
        if (
            isinstance(value, (str, bytes, dict, set, frozenset))
            or not isinstance(value, Iterable)
            or getattr(value, "ndim", 1) != 1
        ):
            raise type_error(op, f"'{self.name}' must be a list of integers", **{self.name: value})
        numbers = tuple(_as_int(v) for v in value)
        sizes = tuple(n for n in numbers if n is not None)
        if len(sizes) != len(numbers):
            raise type_error(op, f"'{self.name}' must be a list of integers", **{self.name: value})
        if not sizes:
            raise value_error(
                op, f"'{self.name}' must name at least one segment", **{self.name: value}
            )
        if min(sizes) < 0:
            raise value_error(op, f"'{self.name}' must have no negative size", **{self.name: value})
        return sizes

    def encode(self, value: tuple[int, ...]) -> tuple[int, ...]:
        return value

    def decode(self, code: tuple[int, ...]) -> tuple[int, ...]:
        return code
