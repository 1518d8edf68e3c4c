# SPDX-License-Identifier: Apache-2.0
"""The two models: the gated click model, and a plain MLP of the same size on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from mlayers import layers
from mlayers.train.encoder import Encoder

Tower = Callable[[Any, Any], Any]
TOWER = "lhuc_tower"


def gated_model(encoder: Encoder, embedding_dim: int, hidden: Sequence[int]) -> Any:
    """The click model whose hidden units are gated by the vectors of the gate fields."""
    tower = layers.LHUCTower(list(hidden), activations=["relu"] * len(hidden), name=TOWER)
    return _click_model(encoder, embedding_dim, lambda inputs, gate: tower([inputs, gate]), "lhuc")


def plain_model(encoder: Encoder, embedding_dim: int, hidden: Sequence[int]) -> Any:
    """The same model with an ungated MLP; the gate fields are among its inputs."""
    mlp = layers.MLP(list(hidden), activations=["relu"] * len(hidden), name="mlp")
    return _click_model(encoder, embedding_dim, lambda inputs, gate: mlp(inputs), "mlp")


def tower_parameters(model: Any) -> int:
    """How many parameters the gated model has above its embeddings."""
    return sum(model.get_layer(name).count_params() for name in (TOWER, "click"))


def widths_for(parameters: int, inputs: int, hidden: Sequence[int]) -> list[int]:
    """`hidden`, scaled so that a plain MLP with one output has about so many parameters.

    Args:
        parameters: the number to come close to.
        inputs: the width of the MLP's input.
        hidden: widths in the wanted proportion.
    """

    def scaled(first: int) -> list[int]:
        return [max(1, round(first * width / hidden[0])) for width in hidden]

    def distance(first: int) -> int:
        # Each unit has a kernel column, a bias and a norm; the output is a plain dense layer.
        widths = [inputs, *scaled(first)]
        count = sum((a + 2) * b for a, b in pairwise(widths))
        return abs(count + widths[-1] + 1 - parameters)

    upper = parameters // (inputs + 2) + 2
    return scaled(min(range(1, upper + 1), key=distance))


def compile_model(model: Any, learning_rate: float, weight_decay: float) -> None:
    """The one recipe for both models."""
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay),
        loss="binary_crossentropy",
        metrics=[keras.metrics.AUC(name="auc", num_thresholds=500)],
    )


def predict(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """(B,) float32 click probabilities."""
    return np.asarray(model.predict(inputs, batch_size=4096, verbose=0))[:, 0]


def gate_values(model: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What the trained gates multiply the hidden units by: one (B, units) array a layer, 0 to 2."""
    tower = model.get_layer(TOWER)
    _, gate_input = tower.input
    to_gates = keras.Model(model.inputs, gate_input)
    gate_input_bd = to_gates.predict(inputs, batch_size=4096, verbose=0)
    gates = tower.gates(keras.ops.convert_to_tensor(gate_input_bd))
    return [keras.ops.convert_to_numpy(gates_bu) for gates_bu in gates]


def _click_model(encoder: Encoder, embedding_dim: int, tower: Tower, name: str) -> Any:
    inputs, stacked = {}, []
    if encoder.categories:
        ids_bc = keras.Input((len(encoder.categories),), dtype="int32", name="categories")
        inputs["categories"] = ids_bc
        stacked.append(
            keras.layers.Embedding(
                encoder.vocabulary,
                embedding_dim,
                embeddings_initializer=keras.initializers.RandomNormal(stddev=0.1),
                name="embeddings",
            )(ids_bc)
        )
    if encoder.numbers:
        numbers_bf = keras.Input((len(encoder.numbers),), name="numbers")
        inputs["numbers"] = numbers_bf
        # A float is a field too: its vector is the number times a direction, plus an offset.
        stacked.append(
            keras.layers.EinsumDense(
                "bf,fd->bfd",
                (len(encoder.numbers), embedding_dim),
                bias_axes="fd",
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.1),
                name="number_vectors",
            )(numbers_bf)
        )
    fields_bfd = stacked[0] if len(stacked) == 1 else keras.layers.Concatenate(axis=1)(stacked)
    vectors = {field: fields_bfd[:, index] for index, field in enumerate(encoder.names)}
    crosses = layers.GroupInt(name="group_int")(
        [[vectors[field] for field in encoder.left], [vectors[field] for field in encoder.right]]
    )
    everything = keras.layers.Concatenate(name="tower_input")(
        [keras.layers.Flatten()(fields_bfd), crosses]
    )
    gate = [vectors[field] for field in encoder.gate]
    gate_input = gate[0] if len(gate) == 1 else keras.layers.Concatenate(name="gate_input")(gate)
    hidden = tower(everything, gate_input)
    click = keras.layers.Dense(1, activation="sigmoid", name="click")(hidden)
    return keras.Model(inputs, click, name=name)
