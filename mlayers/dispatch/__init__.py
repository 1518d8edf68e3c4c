# SPDX-License-Identifier: Apache-2.0
"""From a checked call to whoever computes it.

    NumPy array               -> cpu.py: cython_cpu/, the reference, or the composition
    TensorFlow, JAX, torch    -> bridges/: into the framework's own graph

Nothing is checked here, the front door (mlayers/ops) has; nothing is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlayers.dispatch import cpu
from mlayers.dispatch.config import chosen_path
from mlayers.op import Op, Shape

BRIDGED = ("composition",)


def run(
    op: Op,
    library: str,
    arrays: Sequence[Any],
    values: Sequence[Any],
    shapes: Sequence[Shape],
    out: Sequence[Any] | None = None,
) -> tuple[Any, ...]:
    """Compute `op`.

    Args:
        op: the declaration.
        library: whose arrays these are: `"numpy"` or the active Keras backend.
        arrays: the inputs, checked.
        values: the attributes in declared order, checked.
        shapes: the shapes of the outputs.
        out: NumPy arrays to write into.

    Raises:
        RuntimeError: a path is forced that cannot serve these arrays.
    """
    paths = cpu.PATHS if library == "numpy" else BRIDGED
    path = chosen_path()
    if path == "auto":
        path = paths[0]
    elif path not in paths:
        raise RuntimeError(
            f"{op.name}: the path '{path}' is forced, but {library} arrays can take only "
            f"{', '.join(paths)}. Change MLAYERS_KERNELS or mlayers.use_kernels(...)."
        )
    if library == "numpy":
        return cpu.run(op, path, arrays, values, shapes, out)
    from mlayers.bridges import composition

    return composition.run(op, arrays, tuple(values))
