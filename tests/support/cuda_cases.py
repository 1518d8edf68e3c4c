# SPDX-License-Identifier: Apache-2.0
"""Calls that between them go through every kernel and every size that is compiled in."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlayers.op import OPS
from support.op_examples import DTYPES

Case = tuple[str, tuple[tuple[int, ...], ...], tuple[Any, ...]]  # op, shapes, attributes


def _with_gradient(op: str, shapes: tuple[tuple[int, ...], ...], values: tuple[Any, ...]) -> Any:
    (output,) = OPS[op].shapes(*shapes, *values)
    upstream = (output,) if "grad" in OPS[f"{op}_grad"].inputs else ()
    return [(op, shapes, values), (f"{op}_grad", (*upstream, *shapes), values)]


def ffm(B: int, L: int, R: int, D: int, int_type: str) -> list[Case]:
    """ffm and its gradient."""
    return _with_gradient("ffm", ((B, L * D), (B, R * D)), (D, int_type))


def insight(B: int, sizes: tuple[int, ...], K: int, aggregate: bool) -> list[Case]:
    """feature_insight and its gradient."""
    N = sum(sizes)
    return _with_gradient("feature_insight", ((B, N), (N, K)), (sizes, aggregate))


def elementwise(*shape: int) -> list[Case]:
    """The ops that go element by element."""
    return [
        *_with_gradient("lhuc_gate", (shape, shape), ()),
        *_with_gradient("fid_counter", (shape,), (0.5, 1.0)),
    ]


def norm(I: int, O: int) -> list[Case]:  # noqa: E741
    """weight_norm and its gradient."""
    return _with_gradient("weight_norm", ((I, O), (O,)), ())


def identity(case: Case) -> str:
    """A name for pytest."""
    op, shapes, values = case
    words = [op, *("x".join(map(str, shape)) for shape in shapes)]
    return "-".join([*words, *(str(v).replace(" ", "") for v in values)])


def arrays(case: Case, dtype: str) -> list[np.ndarray]:
    """Inputs of the gradient at a size where half types do not overflow."""
    generator = np.random.default_rng(1)
    return [generator.uniform(-1, 1, shape).astype(DTYPES[dtype]) for shape in case[1]]


def reference(case: Case, given: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The results in float64."""
    op, _, values = case
    found = OPS[op].reference(*(a.astype(np.float64) for a in given), **OPS[op].named(values))
    return found if isinstance(found, tuple) else (found,)


# Small enough for the emulator.
SMALL: list[Case] = [
    *ffm(3, 2, 3, 4, "multiply"),
    *ffm(5, 17, 3, 8, "multiply"),  # more left fields than a thread takes
    *ffm(9, 3, 6, 1, "multiply"),  # several rows in a warp, lanes that are no power of two
    *ffm(2, 2, 3, 264, "multiply"),  # a field wider than a warp
    *ffm(3, 2, 70, 16, "multiply"),  # many right fields a lane
    *ffm(2, 3, 40, 64, "multiply"),  # too many: each gradient by itself
    *ffm(3, 0, 4, 4, "multiply"),
    *ffm(3, 4, 0, 4, "multiply"),
    *ffm(7, 2, 3, 4, "dot"),
    *ffm(37, 5, 9, 7, "dot"),  # several blocks of several rows, tiles with an edge
    *ffm(3, 20, 24, 16, "dot"),  # more tiles than threads
    *ffm(2, 0, 4, 4, "dot"),
    *insight(3, (2, 3), 4, False),
    *insight(70, (1, 0, 9), 3, False),  # several blocks of rows in the gradient
    *insight(300, (5, 18), 70, False),  # several of everything: rows, columns, chunks
    *insight(3, (2, 3), 4, True),
    *insight(300, (33, 0, 2), 70, True),
    *insight(2, (0, 0), 3, False),
    *insight(2, (2, 1), 0, True),
    *norm(3, 2),
    *norm(70, 33),  # several rows of a thread, several blocks
    *norm(2050, 9),  # many threads above one another
    *norm(40, 1030),  # broad blocks
    *norm(0, 2),
    *norm(2, 0),
    *elementwise(5, 7),
    *elementwise(3, 1000),
    *elementwise(1),
]

# As they occur in models: what the compiler is asked for.
TYPICAL: list[Case] = [
    *ffm(8192, 16, 16, 16, "multiply"),
    *ffm(8192, 16, 64, 16, "multiply"),
    *ffm(1024, 10, 12, 5, "dot"),
    *insight(1024, (16,) * 64, 64, False),
    *insight(1024, (16,) * 64, 64, True),
    *insight(1024, (8, 4, 1), 1, False),
    *norm(512, 512),
    *norm(8192, 512),
    *norm(4096, 4096),
    *elementwise(1024, 512),
]
