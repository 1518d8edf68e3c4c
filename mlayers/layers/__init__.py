# SPDX-License-Identifier: Apache-2.0
"""Keras layers of ByteDance Monolith's recommenders, for every Keras backend.

Import this before loading a saved model: Keras finds only classes that have been registered.
"""

import mlayers.ops._symbolic  # noqa: F401  registers what a model that calls mlayers.ops refers to
from mlayers.layers._fold import fold_weight_norm
from mlayers.layers.dense import Dense
from mlayers.layers.fid_counter import FidCounter
from mlayers.layers.group_int import FFM, GroupInt
from mlayers.layers.lhuc_tower import LHUCTower
from mlayers.layers.mlp import MLP

__all__ = ["FFM", "MLP", "Dense", "FidCounter", "GroupInt", "LHUCTower", "fold_weight_norm"]
