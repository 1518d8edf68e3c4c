# SPDX-License-Identifier: Apache-2.0
"""Which columns of the bench are one compiled program, to be timed once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any


def twins(framework: Any, functions: Mapping[str, Any], tensors: Sequence[Any]) -> dict[str, str]:
    """The columns of the composition whose program is that of a column of ours.

    XLA inside TensorFlow takes no kernels, and makes one program of both. It is timed once: what
    two clocks on one program differ by is noise.
    """
    found = {}
    for compiler in framework.compilers:
        ours, composed = functions[f"ours {compiler}"], functions[f"composed {compiler}"].function
        if framework.same_program(compiler, ours, composed, tensors):
            found[f"composed {compiler}"] = f"ours {compiler}"
    return found


def nameless(hlo: str) -> str:
    """An XLA program without the names of module, functions and source, its own names numbered."""
    body = re.sub(r", metadata=\{[^}]*\}", "", hlo.partition("\n")[2])
    numbers: dict[str, int] = {}
    return re.sub(
        r"%[\w.-]+|\b[a-zA-Z_][\w-]*\.\d+\b",
        lambda name: f"%{numbers.setdefault(name[0].removeprefix('%'), len(numbers))}",
        body,
    )
