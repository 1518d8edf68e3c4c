# SPDX-License-Identifier: Apache-2.0
"""One small call of every op, for the tests of the bridges: shapes by input, attributes, batch."""

from __future__ import annotations

from typing import Any

import numpy as np

import mlayers
from mlayers.op import OPS

CALLS: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "multiply": ("ffm", {"left": (8, 8), "right": (8, 12)}, {"dim_size": 4}),
    "dot": ("ffm", {"left": (8, 8), "right": (8, 12)}, {"dim_size": 4, "int_type": "dot"}),
    "insight": (
        "feature_insight",
        {"input_embedding": (8, 6), "weight": (6, 5)},
        {"segment_sizes": (2, 0, 4)},
    ),
    "aggregate": (
        "feature_insight",
        {"input_embedding": (8, 6), "weight": (6, 5)},
        {"segment_sizes": (2, 4), "aggregate": True},
    ),
    "gate": ("lhuc_gate", {"hidden": (8, 6), "logits": (8, 6)}, {}),
    "norm": ("weight_norm", {"kernel": (8, 6), "norm": (6,)}, {}),
    "counter": ("fid_counter", {"counter": (8, 6)}, {"counter_threshold": 1.0, "step": 0.5}),
}

# A kernel has no batch.
BATCHED = [
    name for name, (op, *_) in CALLS.items() if OPS[op].input_axes[0].startswith(("b", "..."))
]


def arrays_of(name: str, seed: int = 0, batch: int | None = None) -> list[np.ndarray]:
    """Inputs for a call, with another batch size if one is given."""
    op, shapes, _ = CALLS[name]
    generator = np.random.default_rng(seed)
    arrays = []
    for axes, shape in zip(OPS[op].input_axes, shapes.values(), strict=True):
        if batch is not None and axes.startswith(("b", "...")):
            shape = (batch, *shape[1:])
        arrays.append(generator.standard_normal(shape).astype("float32"))
    return arrays


def call(name: str, *tensors: Any) -> Any:
    """The op of a call, on these tensors."""
    op, _, attributes = CALLS[name]
    return getattr(mlayers, op)(*tensors, **attributes)


def gradients(name: str, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The gradients of the sum of the squares of a call, by the reference."""
    op, _, attributes = CALLS[name]
    gradient = OPS[op].gradient
    assert gradient is not None
    wide = [a.astype("float64") for a in arrays]
    with mlayers.use_kernels("reference"):
        out = call(name, *wide)
        upstream = {"grad": 2 * out}
        named = {**dict(zip(OPS[op].inputs, wide, strict=True)), **upstream}
        found = getattr(mlayers, gradient.name)(*(named[i] for i in gradient.inputs), **attributes)
    return found if isinstance(found, tuple) else (found,)
