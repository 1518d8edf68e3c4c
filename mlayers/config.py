# SPDX-License-Identifier: Apache-2.0
"""Which path is taken: `MLAYERS_KERNELS` for a process, `use_kernels` for a block."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

PATHS = ("auto", "reference", "composition", "cython", "cupy")


def _checked(path: str, source: str) -> str:
    if path not in PATHS:
        raise ValueError(f"{source} must be one of {', '.join(PATHS)}. Received: {path!r}")
    return path


_process_path = _checked(os.environ.get("MLAYERS_KERNELS", "auto"), "MLAYERS_KERNELS")


class _Block(threading.local):
    path: str | None = None


_block = _Block()


def chosen_path() -> str:
    """The path in force here and now: `auto`, or one that is forced."""
    return _block.path or _process_path


@contextlib.contextmanager
def use_kernels(path: str) -> Iterator[None]:
    """Force one path for every op in a `with` block, in this thread.

    A compiled function (`jax.jit`, `tf.function`, `torch.compile`) keeps the path it was traced
    with.

    Args:
        path: `"auto"` (a kernel where there is one and it was measured to be faster, else the
            composition), `"cython"` or `"cupy"` (the kernels; an error where one cannot serve),
            `"composition"` (array operations of the framework), `"reference"` (NumPy in float64).

    Raises:
        ValueError: `path` is none of these.

    Example:
        >>> import numpy as np, mlayers
        >>> left, right = np.ones((2, 6), "float32"), np.ones((2, 3), "float32")
        >>> with mlayers.use_kernels("reference"):
        ...     mlayers.ffm(left, right, dim_size=3, int_type="dot").tolist()
        [[3.0, 3.0], [3.0, 3.0]]
    """
    before = _block.path
    _block.path = _checked(path, "use_kernels: 'path'")
    try:
        yield
    finally:
        _block.path = before
