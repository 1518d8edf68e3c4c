# SPDX-License-Identifier: Apache-2.0
"""One functional model that holds every layer and every op; exported where it is run as a program.

python -m support.every_layer HOW FOLDER    exports it, and writes inputs with its predictions
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

import mlayers
from mlayers import layers
from support.check_model import predictions, shake_weights

BATCHES = (1, 3, 7)
N_IDS = 3
DIM = 8


class Insight(keras.layers.Layer):
    """`mlayers.feature_insight` with a weight, which has no batch and so is no KerasTensor."""

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(shape=(input_shape[-1], 5), initializer="glorot_uniform")

    def call(self, inputs: Any) -> Any:
        parts = mlayers.feature_insight(inputs, self.kernel, [3, 0, 5])
        sums = mlayers.feature_insight(inputs, self.kernel, [3, 5], aggregate=True)
        return keras.ops.concatenate([parts, sums], axis=-1)


def make_model() -> keras.Model:
    """The model, its weights off their initial values."""
    keras.utils.set_random_seed(0)
    user, item, scenario = (keras.Input((DIM,), name=n) for n in ("user", "item", "scenario"))
    ids = keras.Input((N_IDS,), dtype="int32", name="ids")
    fields = [user, scenario], [item]
    joined = keras.layers.Concatenate()(
        [
            layers.GroupInt("multiply", use_attention=True, attention_units=[6, 1])(fields),
            layers.GroupInt("dot")(fields),
            keras.layers.Flatten()(layers.FFM(out_type="stack")(fields)),
            mlayers.ffm(user, item, dim_size=4),
            mlayers.ffm(item, scenario, dim_size=2, int_type="dot"),
            Insight()(item),
            mlayers.fid_counter(user, 0.5, step=0.25),
            keras.ops.cast(ids, "float32"),
            layers.FidCounter(10, threshold=5)(ids),
        ]
    )
    mlp = layers.MLP([12, 8], enable_batch_normalization=True, batch_normalization_renorm=True)
    tower = layers.LHUCTower([16, 8], [6], activations="tanh", enable_batch_normalization=True)
    hidden = mlayers.lhuc_gate(mlp(joined), tower([joined, scenario]))
    head = layers.Dense(2, allow_kernel_norm=True, kernel_norm_trainable=True)
    model = keras.Model([user, item, scenario, ids], head(hidden))
    for layer in model.layers:
        shake_weights(layer)
    return model


def inputs_of(batch: int) -> list[np.ndarray]:
    """Inputs of this many rows; some ids are outside of the table."""
    rng = np.random.default_rng(batch)
    fields = [rng.normal(size=(batch, DIM)).astype("float32") for _ in range(3)]
    return [*fields, rng.integers(-2, 12, (batch, N_IDS)).astype("int32")]


def export(model: keras.Model, how: str, folder: Path) -> None:
    """Write the artefact, for any batch size."""
    if how == "torch":
        import torch

        # Keras has torch.export fix the batch size unless it is told of this.
        shapes = [([{0: torch.export.Dim("batch")} for _ in model.inputs],)]
        model.export(folder / "model.pt2", format="torch", verbose=False, dynamic_shapes=shapes)
    elif how == "torch.onnx":
        export_by_torch(model, folder / "model.onnx")
    else:
        name = {"onnx": "model.onnx", "tf_saved_model": "model"}[how]
        model.export(folder / name, format=how, verbose=False)


def export_by_torch(model: keras.Model, path: Path) -> None:
    """torch's newer way to ONNX, which Keras takes for fixed batch sizes only."""
    import torch

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, user: Any, item: Any, scenario: Any, ids: Any) -> Any:
            return self.model([user, item, scenario, ids])

    batch = torch.export.Dim("batch")
    example = tuple(map(torch.from_numpy, inputs_of(2)))
    program = torch.onnx.export(
        Positional().eval(),
        example,
        dynamo=True,
        dynamic_shapes=tuple({0: batch} for _ in example),
        input_names=["user", "item", "scenario", "ids"],
        verbose=False,
    )
    program.save(path)


def write(how: str, folder: Path) -> None:
    """The artefact, and for each batch size inputs and predictions."""
    model = make_model()
    for batch in BATCHES:
        (expected,) = predictions(model, inputs_of(batch))
        np.savez(folder / f"{batch}.npz", *inputs_of(batch), expected=expected)
    export(model, how, folder)


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
