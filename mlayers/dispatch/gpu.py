# SPDX-License-Identifier: Apache-2.0
"""CuPy arrays: the CUDA kernels, the float64 reference, or the composition on CuPy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from mlayers.dispatch.arrays import dtype_name
from mlayers.dispatch.cpu import computed
from mlayers.kernels_cu import driver, has, plan
from mlayers.op import Op, Shape

PATHS = ("cupy", "reference", "composition")


def why_no_kernel(op: Op, arrays: Sequence[Any], values: Sequence[Any]) -> str | None:
    """Why an op cannot run as a CUDA kernel on these arrays, or None where it can."""
    if not has(op.name):
        return "there is no CUDA kernel of that name"
    why: str | None = driver.why_not()
    if why is None and _plan(op, arrays, values) is None:
        why = "there is no CUDA kernel for these shapes"
    return why


def run(
    op: Op,
    path: str,
    arrays: Sequence[Any],
    values: Sequence[Any],
    shapes: Sequence[Shape],
    out: Sequence[Any] | None,
) -> tuple[Any, ...]:
    """Compute `op` on checked arrays, into `out` where it is given."""
    cupy = sys.modules["cupy"]
    with arrays[0].device:
        if path == "cupy":
            results = _run_kernel(cupy, op, arrays, values, shapes, out)
        else:
            dtype = arrays[0].dtype
            results = tuple(cupy.asarray(r, dtype) for r in computed(op, path, arrays, values))
        if out is None:
            return results
        for target, result in zip(out, results, strict=True):
            if target is not result:
                target[...] = result
        return tuple(out)


def _run_kernel(
    cupy: Any,
    op: Op,
    arrays: Sequence[Any],
    values: Sequence[Any],
    shapes: Sequence[Shape],
    out: Sequence[Any] | None,
) -> tuple[Any, ...]:
    dtype = arrays[0].dtype
    inputs = [array if _fits(array) else array.copy(order="C") for array in arrays]
    outputs = [
        out[i] if out is not None and _usable(cupy, out[i], arrays) else cupy.empty(shape, dtype)
        for i, shape in enumerate(shapes)
    ]
    scratch = []  # kept until all kernels are in the stream; CuPy's pool then reuses it in order

    def allocate(size: int) -> int:
        scratch.append(cupy.empty(size, "uint8"))
        return int(scratch[0].data.ptr)

    driver.run(
        op,
        dtype_name(arrays[0]),
        _plan(op, arrays, values),
        [array.data.ptr for array in (*inputs, *outputs)],
        allocate,
        arrays[0].device.id,
        cupy.cuda.get_current_stream().ptr,
    )
    return tuple(outputs)


def _plan(op: Op, arrays: Sequence[Any], values: Sequence[Any]) -> Any:
    shapes = tuple(array.shape for array in arrays)
    return plan(op.name, dtype_name(arrays[0]), shapes, tuple(values))


def _fits(array: Any) -> bool:
    """Whether a kernel can take it as it is."""
    return bool(array.flags.c_contiguous and array.data.ptr % 16 == 0)


def _usable(cupy: Any, target: Any, arrays: Sequence[Any]) -> bool:
    """Whether a kernel may write straight into `target`; else a fresh array is copied into it."""
    return _fits(target) and not any(cupy.may_share_memory(target, array) for array in arrays)
