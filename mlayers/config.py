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


# Not a class made of it: what a graph of torch.compile sets would go to the dict of the instance,
# which all threads share, and from then on no graph that asks for it passes its own guards.
_block = threading.local()


def chosen_path() -> str:
    """The path in force here and now: `auto`, or one that is forced."""
    return getattr(_block, "path", None) or _process_path


@contextlib.contextmanager
def use_kernels(path: str) -> Iterator[None]:
    """Force one path for every op in a `with` block, in this thread.

    What `jax.jit` or `tf.function` compiled keeps the path it was traced with; `torch.compile`
    traces again for another path. To force kernels there, write the block around the compiled call:
    of one inside it inductor knows nothing when it chooses what to fuse.

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
    before = getattr(_block, "path", None)
    _block.path = _checked(path, "use_kernels: 'path'")
    try:
        yield
    finally:
        _block.path = before
