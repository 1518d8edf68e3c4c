# SPDX-License-Identifier: Apache-2.0
"""Run as a program in a process of its own: writes models with one backend, or reads them.

python -m support.cross_backend write FOLDER    saves every model and its predictions
python -m support.cross_backend read FOLDER...  prints the predictions' errors as JSON
"""

import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mlayers import layers, ops
from support.check_model import OneLayerModel, functional, predictions, shake_weights

RNG = np.random.default_rng(6)
X = RNG.normal(size=(6, 7)).astype("float32")
GATE = RNG.normal(size=(6, 4)).astype("float32")
IDS = RNG.integers(-2, 12, (6, 3)).astype("int32")
FIELDS = (
    [RNG.normal(size=(6, 4)).astype("float32") for _ in range(3)],
    [RNG.normal(size=(6, 4)).astype("float32") for _ in range(2)],
)
NORMS = {
    "enable_batch_normalization": True,
    "batch_normalization_renorm": True,
    "batch_normalization_renorm_clipping": {"rmax": 1.2, "rmin": 0.8, "dmax": 0.3},
    "kernel_regularizer": "l2",
    "bias_regularizer": keras.regularizers.L1(0.03),
    "initializers": ["he_uniform"],
}


INPUTS = {
    "dense": X,
    "mlp": X,
    "lhuc_tower": (X, GATE),
    "fid_counter": IDS,
    "group_int": FIELDS,
    "group_int_dot": FIELDS,
    "ops": [np.concatenate(fields, axis=1) for fields in FIELDS],
}


def make_layers() -> dict[str, keras.layers.Layer]:
    """Every layer with rich options."""
    return {
        "dense": layers.Dense(
            5,
            activation="sigmoid2",
            kernel_regularizer="l2",
            allow_kernel_norm=True,
            kernel_norm_trainable=True,
        ),
        "mlp": layers.MLP([8, 5, 3], activations=["tanh", "prelu", "hardsigmoid"], **NORMS),
        "lhuc_tower": layers.LHUCTower(
            [8, 5, 3],
            [[8], [4, 5], [3]],
            activations=["leakyrelu", "thresholdedrelu", "gelu"],
            lhuc_use_learnable_weight_norm=False,
            lhuc_enable_batch_normalization=False,
            lhuc_kernel_regularizer=None,
            **NORMS,
        ),
        "fid_counter": layers.FidCounter(10, threshold=5, step=0.5),
        "group_int": layers.GroupInt(
            use_attention=True, attention_units=[6, 1], regularizer="l2", out_type="stack"
        ),
        "group_int_dot": layers.GroupInt("dot", keep_list=True),
    }


def ops_model() -> keras.Model:
    """The array operations on KerasTensors, without a layer around them."""
    left, right = (keras.Input(x.shape[1:]) for x in INPUTS["ops"])
    products = ops.ffm(left, right, dim_size=4)
    logits = keras.layers.Dense(products.shape[-1])(left)
    counted = ops.fid_counter(ops.lhuc_gate(products, logits), 1.5, step=0.5)
    return keras.Model([left, right], keras.layers.Dense(3)(counted))


def inputs_of(name: str) -> Any:
    """The inputs of a model: flat for a functional one, as its layer takes them otherwise."""
    base, kind = name.split("-")
    return keras.tree.flatten(INPUTS[base]) if kind == "functional" else INPUTS[base]


def make_models() -> dict[str, keras.Model]:
    """Each layer in a functional and in a subclassed model, and the operations."""
    models = {"ops-functional": ops_model()}
    for name, layer in make_layers().items():
        models[f"{name}-functional"] = functional(layer, INPUTS[name])
    for name, layer in make_layers().items():
        models[f"{name}-subclassed"] = OneLayerModel(layer)
    return models


def write(folder: Path) -> None:
    """Save every model and its predictions."""
    for name, model in make_models().items():
        predictions(model, inputs_of(name))  # builds the subclassed ones
        shake_weights(model)
        model.save(folder / f"{name}.keras")
        np.savez(folder / f"{name}.npz", *predictions(model, inputs_of(name)))


def read(folder: Path) -> dict[str, float | str]:
    """Largest error of each model's predictions, relative to their largest value.

    A model that cannot be read gets the words of the exception, so that the others are still read.
    """
    errors: dict[str, float | str] = {}
    for path in sorted(folder.glob("*.keras")):
        with np.load(path.with_suffix(".npz")) as saved:
            expected = list(saved.values())
        try:
            found = predictions(keras.saving.load_model(path), inputs_of(path.stem))
        except Exception as error:
            errors[path.stem] = f"{type(error).__name__}: {error}"
            continue
        errors[path.stem] = max(
            float(np.abs(one - other).max() / np.abs(other).max())
            for one, other in zip(found, expected, strict=True)
        )
    return errors


if __name__ == "__main__":
    command, *folders = sys.argv[1:]
    if command == "write":
        write(Path(folders[0]))
    else:
        print(json.dumps({folder: read(Path(folder)) for folder in folders}))
