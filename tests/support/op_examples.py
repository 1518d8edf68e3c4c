# SPDX-License-Identifier: Apache-2.0
"""Examples of calls that work and of calls that must not, as NumPy arrays and attributes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}

# How far a result may be from the float64 reference: a few units in the last place of the dtype.
TOLERANCE = {
    "float16": {"rtol": 2e-3, "atol": 2e-3},
    "bfloat16": {"rtol": 2e-2, "atol": 2e-2},
    "float32": {"rtol": 1e-5, "atol": 1e-5},
    "float64": {"rtol": 1e-12, "atol": 1e-12},
}


@dataclass(frozen=True)
class Example:
    """A call that works.

    `batched` names the inputs whose first axis is the batch.
    """

    name: str
    shapes: dict[str, tuple[int, ...]]
    attributes: dict[str, Any] = field(default_factory=dict)
    batched: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def arrays(self, dtype: str = "float32", seed: int = 0) -> list[np.ndarray]:
        """Normally distributed inputs, rounded to `dtype`."""
        generator = np.random.default_rng(seed)
        return [
            generator.standard_normal(shape).astype(DTYPES[dtype]) for shape in self.shapes.values()
        ]

    def with_batch(self, size: int) -> Example:
        """The same call with another batch size."""
        shapes = {
            name: (size, *shape[1:]) if name in self.batched else shape
            for name, shape in self.shapes.items()
        }
        return Example(self.name, shapes, self.attributes, self.batched)


@dataclass(frozen=True)
class Bad:
    """A call that must raise: what differs from a good one, the class, some of the words."""

    name: str
    changes: dict[str, Any]
    error: type[Exception]
    words: str

    def __str__(self) -> str:
        return self.name


def bad_arrays(good: dict[str, np.ndarray], same_dtype: bool = True) -> list[Bad]:
    """For each array argument, everything that is not an array of the right kind."""
    bad = []
    for name, array in good.items():
        wrong_kinds = {
            "list": array.tolist(),
            "None": None,
            "str": "x",
            "float": 1.0,
            "numpy_scalar": np.float32(1),
            "masked": np.ma.masked_array(array, mask=False),
        }
        for kind, value in wrong_kinds.items():
            bad.append(
                Bad(f"{name}_{kind}", {name: value}, TypeError, f"'{name}' must be an array")
            )
        for dtype in ("int32", "bool", "complex64"):
            words = f"'{name}' must have dtype float16, bfloat16, float32 or float64"
            bad.append(Bad(f"{name}_{dtype}", {name: array.astype(dtype)}, TypeError, words))
        if same_dtype:
            changes = {name: array.astype("float16")}
            bad.append(Bad(f"{name}_other_dtype", changes, TypeError, "must have the same dtype"))
    return bad


def bad_ranks(good: dict[str, np.ndarray], *names: str) -> list[Bad]:
    """For each of `names`, ranks other than 2."""
    return [
        Bad(f"{n}_rank_{rank}", {n: array}, ValueError, f"'{n}' must have rank 2")
        for n in names
        for rank, array in ((0, np.asarray(good[n][0, 0])), (1, good[n][0]), (3, good[n][None]))
    ]


NOT_INTEGERS = {"float": 2.0, "str": "2", "None": None, "bool": True, "list": [2]}
NOT_REAL = {
    "str": "1",
    "None": None,
    "bool": True,
    "list": [1.0],
    "array": np.ones(1),
    "complex": 1j,
}
NOT_FINITE = {"inf": math.inf, "minus_inf": -math.inf, "nan": math.nan, "huge_int": 10**400}
