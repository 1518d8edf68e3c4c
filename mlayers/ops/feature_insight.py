# SPDX-License-Identifier: Apache-2.0
"""A matrix product kept apart per segment of input columns (Monolith's FeatureInsight).

Says how much each feature's slice of an embedding contributes to a dense layer's output.

Axes: b batch, n input column, s segment, k output column.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mlayers.op import Op, Shape, declare
from mlayers.ops._attributes import Flag, Sizes
from mlayers.ops._errors import shape_error
from mlayers.ops._front_door import call
from mlayers.ops._shapes import check_grad, check_rank_2

__all__ = ["feature_insight", "feature_insight_grad"]


def feature_insight(
    input_embedding: Any,
    weight: Any,
    segment_sizes: Sequence[int],
    aggregate: bool = False,
    *,
    out: Any = None,
) -> Any:
    """What each segment of the input adds to `input_embedding @ weight`.

    `out[b, s·K + k] = Σ_{n in segment s} input_embedding[b, n] · weight[n, k]`; with `aggregate`
    the squares of that summed over k: `out[b, s]`. A segment of size 0 gives zeros. Aggregation
    never holds an array of (B, S·K).

    Args:
        input_embedding: (B, N), the segments side by side, in float16, bfloat16, float32 or
            float64. Half types accumulate in float32.
        weight: (N, K), of the same dtype and library.
        segment_sizes: S integers, the width of each segment; they add up to N.
        aggregate: whether to sum the squares over k.
        out: an array of NumPy or CuPy for the result; for calls with those.

    Returns:
        (B, S·K), or (B, S) with `aggregate`, in the inputs' dtype and library.

    Raises:
        ValueError: a rank other than 2, `weight` without N rows, `segment_sizes` that are empty,
            negative or do not add up to N, `out` of another shape.
        TypeError: dtypes that differ or are not floating, arrays of two libraries or devices,
            something that is no array, a tensor of a framework that is not Keras' backend.

    Source:
        `layer_ops.feature_insight` in ByteDance Monolith.

    Example:
        >>> import numpy as np, mlayers
        >>> x = np.array([[1, 2, 3]], "float32")
        >>> weight = np.array([[1, 10], [1, 10], [1, 10]], "float32")
        >>> mlayers.feature_insight(x, weight, segment_sizes=[1, 2]).tolist()
        [[1.0, 10.0, 5.0, 50.0]]
        >>> mlayers.feature_insight(x, weight, segment_sizes=[1, 2], aggregate=True).tolist()
        [[101.0, 2525.0]]
    """
    return call(_FEATURE_INSIGHT, (input_embedding, weight), (segment_sizes, aggregate), out)


def feature_insight_grad(
    grad: Any,
    input_embedding: Any,
    weight: Any,
    segment_sizes: Sequence[int],
    aggregate: bool = False,
    *,
    out: Any = None,
) -> Any:
    """The gradients of `feature_insight` with respect to `input_embedding` and `weight`.

    Args:
        grad: the upstream gradient, shaped as the output of `feature_insight`.
        input_embedding: (B, N), as given to `feature_insight`.
        weight: (N, K), as given to `feature_insight`.
        segment_sizes: S integers that add up to N.
        aggregate: as given to `feature_insight`.
        out: a tuple of two arrays of NumPy or CuPy for the results; for calls with those.

    Returns:
        `(input_embedding_grad, weight_grad)`, shaped as `input_embedding` and `weight`.

    Raises:
        ValueError: as `feature_insight`, or `grad` is not shaped as its output.
        TypeError: as `feature_insight`.

    Example:
        >>> import numpy as np, mlayers
        >>> x, weight = np.array([[1, 2]], "float32"), np.array([[3], [5]], "float32")
        >>> grad = np.array([[1, 10]], "float32")
        >>> input_grad, weight_grad = mlayers.feature_insight_grad(grad, x, weight, [1, 1])
        >>> input_grad.tolist(), weight_grad.tolist()
        ([[3.0, 50.0]], [[1.0], [20.0]])
    """
    arrays = (grad, input_embedding, weight)
    return call(_FEATURE_INSIGHT_GRAD, arrays, (segment_sizes, aggregate), out)


def _shapes(
    input_embedding: Shape,
    weight: Shape,
    segment_sizes: tuple[int, ...],
    aggregate: bool,
    op: str = "feature_insight",
) -> Any:
    check_rank_2(op, "input_embedding", input_embedding, "(batch, columns)")
    check_rank_2(op, "weight", weight, "(columns, units)")
    width = input_embedding[1]
    if weight[0] is not None and weight[0] != width:
        rule = "'weight' must have a row for every column of 'input_embedding'"
        raise shape_error(op, rule, input_embedding=input_embedding, weight=weight)
    if sum(segment_sizes) != width:
        rule = (
            f"'segment_sizes' must add up to the width of 'input_embedding'; "
            f"they add up to {sum(segment_sizes)}"
        )
        raise shape_error(op, rule, input_embedding=input_embedding)
    return ((input_embedding[0], len(segment_sizes) * (1 if aggregate else weight[1])),)


def _grad_shapes(
    grad: Shape,
    input_embedding: Shape,
    weight: Shape,
    segment_sizes: tuple[int, ...],
    aggregate: bool,
) -> Any:
    op = "feature_insight_grad"
    (output,) = _shapes(input_embedding, weight, segment_sizes, aggregate, op=op)
    check_grad(op, "feature_insight", grad, output)
    return input_embedding, weight


def _segments(segment_sizes: tuple[int, ...]) -> Iterator[slice]:
    """The columns of each segment."""
    first = 0
    for size in segment_sizes:
        yield slice(first, first + size)
        first += size


def _reference(
    input_embedding: Any, weight: Any, segment_sizes: tuple[int, ...], aggregate: bool
) -> Any:
    parts_bk = [
        np.einsum("bn,nk->bk", input_embedding[:, n], weight[n]) for n in _segments(segment_sizes)
    ]
    if aggregate:
        return np.stack([(part_bk**2).sum(axis=1) for part_bk in parts_bk], axis=1)
    return np.concatenate(parts_bk, axis=1)


def _grad_reference(
    grad: Any, input_embedding: Any, weight: Any, segment_sizes: tuple[int, ...], aggregate: bool
) -> Any:
    input_grad, weight_grad = np.zeros_like(input_embedding), np.zeros_like(weight)
    K = weight.shape[1]
    for s, n in enumerate(_segments(segment_sizes)):
        if aggregate:
            part_bk = np.einsum("bn,nk->bk", input_embedding[:, n], weight[n])
            grad_bk = 2 * grad[:, s : s + 1] * part_bk
        else:
            grad_bk = grad[:, s * K : (s + 1) * K]
        input_grad[:, n] = np.einsum("bk,nk->bn", grad_bk, weight[n])
        weight_grad[n] = np.einsum("bk,bn->nk", grad_bk, input_embedding[:, n])
    return input_grad, weight_grad


def _composition(
    xp: Any, input_embedding: Any, weight: Any, segment_sizes: tuple[int, ...], aggregate: bool
) -> Any:
    parts = []
    for n in _segments(segment_sizes):
        part_bk = input_embedding[:, n] @ weight[n]
        parts.append(xp.sum(part_bk * part_bk, axis=1, keepdims=True) if aggregate else part_bk)
    return xp.concatenate(parts, axis=1)


def _grad_composition(
    xp: Any,
    grad: Any,
    input_embedding: Any,
    weight: Any,
    segment_sizes: tuple[int, ...],
    aggregate: bool,
) -> Any:
    input_grads, weight_grads = [], []
    K = weight.shape[1]
    for s, n in enumerate(_segments(segment_sizes)):
        input_bn, weight_nk = input_embedding[:, n], weight[n]
        if aggregate:
            grad_bk = 2 * grad[:, s : s + 1] * (input_bn @ weight_nk)
        else:
            grad_bk = grad[:, s * K : (s + 1) * K]
        input_grads.append(grad_bk @ xp.transpose(weight_nk))
        weight_grads.append(xp.transpose(input_bn) @ grad_bk)
    return xp.concatenate(input_grads, axis=1), xp.concatenate(weight_grads, axis=0)


# Where a segment is so large a matrix product that a BLAS does it better, the composition calls
# one. Measured on 2 cores, AVX-512, float32, B 1024; composition / kernel, both the best of their
# framework; S segments of n columns, K units:
#
#     forward              NumPy   torch   JAX    TensorFlow
#     S 64, n 16, K 64     1.1     1.2     1.6    2.0
#     S 8, n 128, K 64     1.2     1.1     2.0    2.0
#     S 1, n 512, K 64     0.8     1.2            1.4
#     S 4, n 256, K 256    0.7     1.1     1.3    1.4
#     S 2, n 512, K 512    0.7     0.9            1.2
#
#     with the gradient            plain                 aggregate
#     S 64, n 16, K 64             1.9 to 3.6            2.6 to 6.1
#     S 8, n 128, K 64             1.1 to 1.3            0.7 to 0.8
#     S 4, n 256, K 256            0.95 to 1.1           0.4
#     S 2, n 512, K 512            1.0
#
# Behind where it is aggregated, the kernel is used all the same if K is above 64: the composition
# holds arrays of (B, K).
#
# CuPy arrays and CUDA tensors of torch ("cuda") have a rule on paper alone, not measured yet: a
# segment of 512 by 64 is bound by operations, at which cuBLAS is better than a tile of 64 by 64.
_WIDE = {"numpy": 1 << 15, "torch": 1 << 17, "cuda": 1 << 15}  # n * K: the composition is taken
_BLOCK = 64  # columns that the kernel takes at once


def _kernel_wins(
    library: str, embedding: Shape, weight: Shape, segment_sizes: tuple[int, ...], aggregate: bool
) -> bool:
    if aggregate and weight[1] > _BLOCK:
        return True
    mean_size = embedding[1] // len(segment_sizes)
    return bool(mean_size * weight[1] < _WIDE.get(library, math.inf))


def _grad_kernel_wins(
    library: str,
    grad: Shape,
    embedding: Shape,
    weight: Shape,
    segment_sizes: tuple[int, ...],
    aggregate: bool,
) -> bool:
    if aggregate:
        return bool(max(segment_sizes) <= _BLOCK or weight[1] > _BLOCK)
    return _kernel_wins(library, embedding, weight, segment_sizes, aggregate)


_ATTRIBUTES = (Sizes("segment_sizes"), Flag("aggregate"))

_FEATURE_INSIGHT_GRAD = declare(
    Op(
        name="feature_insight_grad",
        inputs=("grad", "input_embedding", "weight"),
        outputs=("input_embedding_grad", "weight_grad"),
        attributes=_ATTRIBUTES,
        axes="bo,bn,nk->bn,nk",
        shapes=_grad_shapes,
        reference=_grad_reference,
        composition=_grad_composition,
        kernel_wins=_grad_kernel_wins,
    )
)

_FEATURE_INSIGHT = declare(
    Op(
        name="feature_insight",
        inputs=("input_embedding", "weight"),
        outputs=("out",),
        attributes=_ATTRIBUTES,
        axes="bn,nk->bo",
        shapes=_shapes,
        reference=_reference,
        composition=_composition,
        gradient=_FEATURE_INSIGHT_GRAD,
        kernel_wins=_kernel_wins,
    )
)
