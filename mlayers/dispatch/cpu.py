# SPDX-License-Identifier: Apache-2.0
"""NumPy arrays: the Cython kernels, the float64 reference, or the composition on NumPy."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

try:
    from mlayers.cython_cpu import core
except ModuleNotFoundError as error:
    if error.name != "mlayers.cython_cpu":
        raise
    raise ImportError(
        f"mlayers was imported from its source code ({__file__}), which has no compiled kernels: "
        "start Python in another folder, or as `python -P`; or `pip install -e .`, to work on it"
    ) from None
from mlayers.config import chosen_path
from mlayers.dispatch import numpy_ops
from mlayers.dispatch.arrays import dtype_name
from mlayers.op import Op, Shape

PATHS = ("cython", "reference", "composition")

Array = np.ndarray[Any, Any]

# A program calls with the same dtypes, shapes and attributes again and again. Such calls are known
# here once they have been checked, and then nothing is checked any more: a tiny call takes 3 µs in
# place of 11, with `out` of 15. What a call is like -> its kernel, its outputs' dtype and shapes.
_known: dict[tuple[Any, ...], tuple[Any, Any, Sequence[Shape]]] = {}
_MOST_KNOWN = 1024  # batches may come in any size

_PLAIN = frozenset((np.ndarray,))
_PLAIN_VALUES = frozenset((int, str))  # where equal ones are the same: True == 1, -0.0 == 0.0
_signature = attrgetter("dtype", "shape", "flags.num")  # all that is checked of an array


def compute_dtype(dtype: Any) -> Any:
    """What is computed in: half types accumulate in float32; byte order is the machine's."""
    return np.dtype(np.float64 if np.dtype(dtype).name == "float64" else np.float32)


def run(
    op: Op,
    path: str,
    arrays: Sequence[Array],
    values: Sequence[Any],
    shapes: Sequence[Shape],
    out: Sequence[Array] | None,
) -> tuple[Array, ...]:
    """Compute `op` on checked arrays, into `out` where it is given."""
    dtype = arrays[0].dtype.newbyteorder("=")
    if path == "cython":
        results = _run_kernel(op, arrays, values, shapes, out)
        if out is None:
            return results
    else:
        results = computed(op, path, arrays, values)
    if out is None:
        return tuple(np.asarray(result, dtype) for result in results)
    for target, result in zip(out, results, strict=True):
        if target is not result:
            target[...] = result
    return tuple(out)


def recall(op: Op, arrays: Sequence[Any], values: Sequence[Any], out: Any) -> Any:
    """The result of a call like one that is known, or None; for arguments not checked yet."""
    if chosen_path() != "auto" or not _PLAIN_VALUES.issuperset(map(type, values)):
        return None
    given = () if out is None else (out,) if len(op.outputs) == 1 else out
    if out is not None and (type(given) is not tuple or len(given) != len(op.outputs)):
        return None
    if not _PLAIN.issuperset(map(type, (*arrays, *given))):
        return None
    known = _known.get((op, *values, *map(_signature, (*arrays, *given))))
    if known is None:
        return None
    kernel, dtype, shapes = known
    if given and core().share_memory(tuple(arrays), given):
        return None
    outputs = given or tuple([np.empty(shape, dtype) for shape in shapes])
    kernel.run(tuple(arrays), outputs)
    return outputs if len(outputs) > 1 else outputs[0]


def remember(
    op: Op,
    arrays: Sequence[Array],
    values: Sequence[Any],
    shapes: Sequence[Shape],
    out: Sequence[Array] | None,
) -> None:
    """Make calls like this one known, which has been checked and took the kernel by itself."""
    every, dtype = (*arrays, *(out or ())), arrays[0].dtype
    if (
        dtype.itemsize > 2  # half types are handed over in another dtype
        and dtype.isnative
        and _PLAIN.issuperset(map(type, every))
        and _PLAIN_VALUES.issuperset(map(type, values))
        and all(_fits(array, dtype) for array in every)
    ):
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        kernel = _prepared(op, dtype_name(arrays[0]), tuple(values))
        _known[op, *values, *map(_signature, every)] = kernel, dtype, shapes


def computed(op: Op, path: str, arrays: Sequence[Any], values: Sequence[Any]) -> tuple[Any, ...]:
    """The reference or the composition, in the dtype that it is computed in.

    Of CuPy arrays too, which NumPy's functions hand over to CuPy.
    """
    if path == "reference":
        formula, dtype = op.reference, np.dtype(np.float64)
    else:
        formula, dtype = (
            functools.partial(op.composition, numpy_ops),
            compute_dtype(arrays[0].dtype),
        )
    result = formula(*(array.astype(dtype) for array in arrays), **op.named(values))
    return result if len(op.outputs) > 1 else (result,)


def _run_kernel(
    op: Op,
    arrays: Sequence[Array],
    values: Sequence[Any],
    shapes: Sequence[Shape],
    out: Sequence[Array] | None,
) -> tuple[Array, ...]:
    dtype = arrays[0].dtype
    if not dtype.isnative:
        dtype = dtype.newbyteorder("=")
    inputs = tuple([a if _fits(a, dtype) else np.require(a, dtype, ("C", "A")) for a in arrays])
    outputs = tuple(
        [
            out[i] if out is not None and _usable(out[i], dtype, arrays) else np.empty(shape, dtype)
            for i, shape in enumerate(shapes)
        ]
    )
    kernel = _prepared(op, dtype_name(inputs[0]), tuple(values))
    kernel.run(_bits(inputs), _bits(outputs))
    return outputs


@functools.lru_cache(maxsize=1024)
def _prepared(op: Op, dtype: str, values: tuple[Any, ...]) -> Any:
    """The kernel for checked attributes, which are hashable."""
    return core().Prepared(op.name, dtype, *op.encode(values))


def _bits(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Half types as uint16: NumPy's buffers do not know bfloat16."""
    if arrays[0].dtype.itemsize > 2:
        return arrays
    return tuple(array.view(np.uint16) for array in arrays)


def _fits(array: Array, dtype: Any) -> bool:
    """Whether a kernel can take it as it is."""
    flags = array.flags
    return bool(array.dtype == dtype and flags.c_contiguous and flags.aligned)


def _usable(target: Array, dtype: Any, arrays: Sequence[Array]) -> bool:
    """Whether a kernel may write straight into `target`; else a fresh array is copied into it."""
    return _fits(target, dtype) and not any(np.may_share_memory(target, a) for a in arrays)
