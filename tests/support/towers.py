# SPDX-License-Identifier: Apache-2.0
"""Small gated towers for the tests of their options."""

from typing import Any

import numpy as np

from mlayers.layers import LHUCTower
from support.check_layer import shapes_of
from support.check_model import shake_weights

TANH = {"output_dims": [5, 3], "activations": "tanh"}  # no unit is dead in any gradient


def make(inputs: Any, **options: Any) -> LHUCTower:
    """A built tower whose weights are off their initial values."""
    layer = LHUCTower(**{**TANH, **options})
    layer.build(shapes_of(inputs))
    shake_weights(layer)
    return layer


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
