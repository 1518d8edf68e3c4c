# SPDX-License-Identifier: Apache-2.0
"""Which blocks of feature_insight.cu to start. The segments are compiled in."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from mlayers.kernels_cu.plan import Launch, Plan, Scratch, cover, vector

THREADS = 128
WIDE = 64  # output columns of a block in the gradient
CONSTANT_MEMORY = 60_000  # bytes for the segments; a device has 64 KiB

Shape = tuple[int, ...]
Constants = tuple[tuple[str, Any], ...]


def feature_insight(
    itemsize: int, embedding: Shape, weight: Shape, segment_sizes: tuple[int, ...], aggregate: bool
) -> Plan | None:
    """The products, or the sums of their squares."""
    B, N, K = *embedding, weight[1]
    width = _width(K)
    height = THREADS // (width // 4) * 8
    widths = 1 if aggregate else cover(K, width)
    blocks = (len(segment_sizes) * widths * cover(B, height), 1)
    arrays = ("input_embedding", "weight", "out")
    launch = Launch("feature_insight", blocks, THREADS, (*arrays, B, N, K))
    constants = _constants(itemsize, K, segment_sizes, aggregate)
    return Plan((launch,), constants) if constants else None


def feature_insight_grad(
    itemsize: int,
    grad: Shape,
    embedding: Shape,
    weight: Shape,
    segment_sizes: tuple[int, ...],
    aggregate: bool,
) -> Plan | None:
    """The gradients: a block per tile and chunk of rows, then sums of what the blocks have."""
    B, N, K = *embedding, weight[1]
    constants = _constants(itemsize, K, segment_sizes, aggregate)
    if constants is None:
        return None
    k_tiles = max(1, cover(K, WIDE))
    tiles = len(dict(constants)["TILES"]) * k_tiles
    # Enough blocks for a large device, with no less than 256 rows each.
    chunks = max(1, min(cover(2048, max(1, tiles)), cover(B, 256)))
    chunk = max(1, cover(cover(B, chunks), 64)) * 64
    chunks = max(1, cover(B, chunk))

    real, scratch = max(itemsize, 4), 0
    launches, parts = [], []
    for name, count, size in (
        ("input_embedding_grad", k_tiles, B * N),
        ("weight_grad", chunks, N * K),
    ):
        if count == 1:
            parts.append(Scratch(0))  # nothing is written there
            continue
        part = Scratch(scratch)
        parts.append(part)
        launch = Launch(
            "feature_insight_sum", (cover(size, 256), 1), 256, (part, name, count, size)
        )
        launches.append(launch)
        scratch += cover(count * size * real, 16) * 16
    arrays = ("grad", "input_embedding", "weight", "input_embedding_grad", "weight_grad")
    first = Launch(
        "feature_insight_grad", (tiles, chunks), THREADS, (*arrays, *parts, B, N, K, chunk)
    )
    return Plan((first, *launches), constants, scratch)


def _width(K: int) -> int:
    """Output columns of a block in the forward."""
    return 64 if K > 16 else 16


def _constants(
    itemsize: int, K: int, segment_sizes: tuple[int, ...], aggregate: bool
) -> Constants | None:
    depth = 16 if max(segment_sizes) > 8 else 8
    tiles = tuple(
        (segment, offset)
        for segment, size in enumerate(segment_sizes)
        for offset in range(0, size, depth)
    )
    if 12 * len(segment_sizes) + 8 * len(tiles) > CONSTANT_MEMORY:
        return None
    return (
        ("AGGREGATE", int(aggregate)),
        ("VEC", vector(itemsize, K)),
        ("WIDTH", _width(K)),
        ("DEPTH", depth),
        ("SIZES", segment_sizes),
        ("FIRSTS", (0, *accumulate(segment_sizes[:-1]))),
        ("TILES", tiles or ((0, 0),)),
    )
