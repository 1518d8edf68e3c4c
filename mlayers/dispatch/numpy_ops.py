# SPDX-License-Identifier: Apache-2.0
"""NumPy under the names of keras.ops, so that a composition runs on NumPy and CuPy arrays too."""

from __future__ import annotations

from typing import Any

import numpy as np


def __getattr__(name: str) -> Any:
    return getattr(np, name)


def cast(x: Any, dtype: Any) -> Any:
    """`x` in another dtype."""
    return x.astype(dtype)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)) without overflow: exp never sees a positive number."""
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + decay), decay / (1 + decay))
