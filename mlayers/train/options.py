# SPDX-License-Identifier: Apache-2.0
"""What `train` can be told, with its defaults: one place for the parser, the job and the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainOptions:
    """The arguments of ``python -m mlayers train``; both models are trained with the same ones."""

    data: Path | None = None
    sep: str | None = None
    label: str | None = None
    positive_from: float | None = None
    left: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    gate: tuple[str, ...] = ()
    time: str | None = None
    rows: int = 400_000
    min_count: int = 1
    backend: str | None = None
    epochs: int = 8
    batch_size: int = 512
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    embedding_dim: int = 16
    hidden: tuple[int, ...] = (32, 16)
    seed: int = 0
    out: Path = Path("mlayers-train")
