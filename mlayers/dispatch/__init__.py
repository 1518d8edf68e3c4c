# SPDX-License-Identifier: Apache-2.0
"""From a checked call to whoever computes it.

    NumPy array               -> cpu.py: cython_cpu/, the reference, or the composition
    CuPy array                -> gpu.py: kernels_cu/, the reference, or the composition
    TensorFlow, JAX, torch    -> bridges/: the kernels inside the framework's own graph, or the
                                 composition, in the framework's own operations

Left to itself (`auto`), a call takes the kernel where there is one and it is the faster path, by
the rule that each op declares.

Nothing is checked here, the front door (mlayers/ops) has; nothing is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlayers.config import chosen_path
from mlayers.dispatch import cpu
from mlayers.dispatch.arrays import ARRAYS
from mlayers.op import Op, Shape

BRIDGED = ("cython", "cupy", "composition")


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
        library: whose arrays these are: `"numpy"`, `"cupy"` or the active Keras backend.
        arrays: the inputs, checked.
        values: the attributes in declared order, checked.
        shapes: the shapes of the outputs.
        out: arrays to write into, of NumPy or CuPy.

    Raises:
        RuntimeError: a path is forced that cannot serve these arrays.
    """
    path = chosen_path()
    if library not in ARRAYS:
        _check_path(op, library, path, BRIDGED)
        return _run_bridged(op, library, arrays, tuple(values), path)
    if library == "numpy":
        _check_path(op, library, path, cpu.PATHS)
        if path == "auto":
            inputs = [array.shape for array in arrays]
            path = "cython" if op.takes_kernel("numpy", inputs, values) else "composition"
            if path == "cython":
                cpu.remember(op, arrays, values, shapes, out)
        return cpu.run(op, path, arrays, values, shapes, out)
    return _run_on_gpu(op, arrays, values, shapes, out, path)


def _check_path(op: Op, library: str, path: str, paths: Sequence[str]) -> None:
    if path != "auto" and path not in paths:
        raise RuntimeError(
            f"{op.name}: the path '{path}' is forced, but {library} arrays can take only "
            f"{', '.join(paths)}. Change MLAYERS_KERNELS or mlayers.use_kernels(...)."
        )


def _run_on_gpu(
    op: Op,
    arrays: Sequence[Any],
    values: Sequence[Any],
    shapes: Sequence[Shape],
    out: Sequence[Any] | None,
    path: str,
) -> tuple[Any, ...]:
    from mlayers.dispatch import gpu

    _check_path(op, "cupy", path, gpu.PATHS)
    if path in ("auto", "cupy"):
        why = gpu.why_no_kernel(op, arrays, values)
        if path == "cupy" and why:
            raise RuntimeError(f"{op.name}: the path 'cupy' is forced, but {why}.")
        inputs = [array.shape for array in arrays]
        wins = path == "cupy" or op.takes_kernel("cuda", inputs, values)
        path = "cupy" if wins and not why else "composition"
    return gpu.run(op, path, arrays, values, shapes, out)


def _run_bridged(
    op: Op, library: str, arrays: Sequence[Any], values: tuple[Any, ...], path: str
) -> tuple[Any, ...]:
    from mlayers.bridges import composition, native

    tensors = [composition.tensor_of(array) for array in arrays]
    if path == "composition":
        return composition.run(op, tensors, values)
    bridge = native.bridge(library)
    if bridge is not None and bridge.serves(op, tensors):
        kernels = bridge.path(tensors)
        rule = library if kernels == "cython" else "cuda"
        if path == kernels or (path == "auto" and native.takes_kernel(op, rule, tensors, values)):
            return tuple(bridge.run(op, tensors, values))
    if path == "auto":
        return composition.run(op, tensors, values)
    why = f"{library} has no such kernel for them" if bridge else native.why_not(library)
    raise RuntimeError(f"{op.name}: the path '{path}' is forced, but {why}.")
