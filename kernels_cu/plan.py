# SPDX-License-Identifier: Apache-2.0
"""What is started on the device for one call of an op."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

# An argument of a kernel: the name of an input or output of the op, a place in the scratch memory,
# an int, or a float.
Argument = Any

SHARED_MEMORY = 48 << 10  # bytes that a block may have on every device without asking


@dataclass(frozen=True)
class Scratch:
    """A place in memory that is needed during the call."""

    offset: int  # in bytes, a multiple of 16


@dataclass(frozen=True)
class Launch:
    """One kernel, started once.

    Attributes:
        kernel: its name in X.cu.
        blocks: how many, along x and y.
        threads: of each block.
        arguments: in the kernel's order.
        shared: bytes of dynamic shared memory of a block.
    """

    kernel: str
    blocks: tuple[int, int]
    threads: int
    arguments: tuple[Argument, ...]
    shared: int = 0


@dataclass(frozen=True, eq=False)  # told apart by identity: there is one for each kind of call
class Plan:
    """Kernels to start one after the other.

    Attributes:
        launches: in order.
        constants: names and values that are compiled in.
        scratch: bytes of memory that the kernels need besides inputs and outputs.
    """

    launches: tuple[Launch, ...]
    constants: tuple[tuple[str, Any], ...] = ()
    scratch: int = 0


def vector(itemsize: int, *sizes: int) -> int:
    """How many neighbours a thread takes at once: at most 16 bytes, and a divisor of all sizes."""
    return math.gcd(16 // itemsize, *sizes)


def cover(size: int, part: int) -> int:
    """How many parts cover a size."""
    return -(-size // part)


def elementwise(kernel: str, itemsize: int, shape: tuple[int, ...], *arguments: Argument) -> Plan:
    """A kernel whose threads take 16 bytes each; a size is put where `...` stands."""
    size = math.prod(shape)
    blocks = cover(size, 256 * (16 // itemsize))
    filled = tuple(size if argument is ... else argument for argument in arguments)
    return Plan((Launch(kernel, (blocks, 1), 256, filled),))
