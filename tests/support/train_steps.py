# SPDX-License-Identifier: Apache-2.0
"""The model and the batches that the tests of distributed training train, on every backend."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np

from mlayers import layers

BATCH, STEPS, DIM = 64, 4, 8
UNITS, GATE_UNITS = (48, 40, 1), 24  # no two of them alike, nor like other sizes: seen in programs


def make_model(batch_norm: bool) -> keras.Model:
    """Crossed fields below a gated tower; `batch_norm` makes rows depend on the whole batch."""
    keras.utils.set_random_seed(1)
    user, item, scenario = (keras.Input((DIM,), name=n) for n in ("user", "item", "scenario"))
    embedded = keras.layers.Dense(DIM, name="embedding")(user)  # so that the crosses have gradients
    crossed = layers.GroupInt("multiply")(([embedded, scenario], [item]))
    dots = layers.GroupInt("dot")(([embedded, scenario], [item]))
    dense_input = keras.layers.Concatenate()([user, item, crossed, dots])
    tower = layers.LHUCTower(
        UNITS, [GATE_UNITS], enable_batch_normalization=batch_norm, name="tower"
    )
    return keras.Model([user, item, scenario], tower([dense_input, scenario]))


def make_optimizer() -> keras.optimizers.Optimizer:
    """One with a state that is as large as the weights."""
    return keras.optimizers.SGD(0.05, momentum=0.9)


def batches() -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """The same few batches each time: inputs and targets."""
    rng = np.random.default_rng(2)
    for _ in range(STEPS):
        user, item, scenario = rng.normal(size=(3, BATCH, DIM)).astype("float32")
        target = (user * item).sum(axis=1, keepdims=True) * np.sign(scenario[:, :1])
        yield [user, item, scenario], target.astype("float32")


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Every weight by its path."""
    return {v.path: keras.ops.convert_to_numpy(v.value) for v in model.weights}


def largest_error(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Of all weights, each relative to its own largest number; 1 stands for absolute below it."""
    assert found.keys() == expected.keys()
    return max(
        float(np.abs(found[path] - value).max() / max(1e-2, np.abs(value).max()))
        for path, value in expected.items()
    )
