# SPDX-License-Identifier: Apache-2.0
"""The words of an error: the op, the argument, the rule, then what came."""

from __future__ import annotations

from typing import Any


def _words(op: str, rule: str, received: dict[str, Any]) -> str:
    came = ", ".join(f"{name}={value!r}" for name, value in received.items())
    return f"{op}: {rule}. Received: {came}"


def value_error(op: str, rule: str, **received: Any) -> ValueError:
    """A wrong value, rank or shape."""
    return ValueError(_words(op, rule, received))


def type_error(op: str, rule: str, **received: Any) -> TypeError:
    """A wrong kind of thing: dtype, container, library, device."""
    return TypeError(_words(op, rule, received))


def shape_error(op: str, rule: str, **shapes: Any) -> ValueError:
    """A wrong shape; `shapes` are the shapes of the arguments that disagree, by name."""
    came = ", ".join(f"{name}.shape={_readable(shape)}" for name, shape in shapes.items())
    return ValueError(f"{op}: {rule}. Received: {came}")


def _readable(shape: Any) -> str:
    """A shape as a tuple of numbers, whatever a framework's sizes look like when printed."""
    sizes = ", ".join(str(size) for size in shape)
    return f"({sizes},)" if len(shape) == 1 else f"({sizes})"
