# SPDX-License-Identifier: Apache-2.0
"""The part of `check_layer` that puts a layer into a model: saving, exporting, training."""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from support.frameworks import BACKEND, to_numpy


@keras.saving.register_keras_serializable(package="mlayers_tests")
class OneLayerModel(keras.Model):
    """A subclassed model: nothing builds its layer but the layer itself."""

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = layer

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.layer(inputs, training=training)

    def get_config(self) -> dict[str, Any]:
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "OneLayerModel":
        layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**{**config, "layer": layer})


def shake_weights(layer: keras.layers.Layer) -> None:
    """Move every weight off its initial value; upwards, so that variances stay positive."""
    rng = np.random.default_rng(7)
    for variable in layer.weights:
        variable.assign(variable + rng.uniform(0.05, 0.3, variable.shape).astype("float32"))


def symbolic_inputs(inputs: Any) -> Any:
    return keras.tree.map_structure(lambda x: keras.Input(x.shape[1:], dtype=x.dtype.name), inputs)


def functional(layer: keras.layers.Layer, inputs: Any) -> keras.Model:
    """A functional model of one layer; it takes the flat list of inputs, batch unknown."""
    symbols = symbolic_inputs(inputs)
    return keras.Model(keras.tree.flatten(symbols), layer(symbols))


def predictions(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
    return keras.tree.flatten(to_numpy(model(tensors)))


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(found) == len(expected) and all(
        one.shape == other.shape and np.allclose(one, other, rtol=1e-5, atol=1e-6)
        for one, other in zip(found, expected, strict=True)
    )


def _check_saving(model: keras.Model, inputs: Any) -> None:
    expected = predictions(model, inputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
    assert same(predictions(loaded, inputs), expected)
    # The comparison must be able to fail: with other weights the predictions differ.
    shake_weights(loaded)
    assert not model.weights or not same(predictions(loaded, inputs), expected)


def saved_functional_model_predicts_the_same(make_layer: Callable[..., Any], inputs: Any) -> None:
    model = functional(make_layer(), inputs)
    shake_weights(model)
    _check_saving(model, keras.tree.flatten(inputs))


def saved_subclassed_model_predicts_the_same(make_layer: Callable[..., Any], inputs: Any) -> None:
    model = OneLayerModel(make_layer())
    predictions(model, inputs)
    shake_weights(model)
    _check_saving(model, inputs)


def exported_model_predicts_the_same(make_layer: Callable[..., Any], inputs: Any) -> None:
    if BACKEND == "jax" and importlib.util.find_spec("tensorflow") is None:
        pytest.skip("Keras exports a JAX model through TensorFlow, which is not installed")
    model = functional(make_layer(), inputs)
    shake_weights(model)
    flat = keras.tree.flatten(inputs)
    expected = predictions(model, flat)
    with tempfile.TemporaryDirectory() as folder:
        export = _export_with_torch if BACKEND == "torch" else _export_saved_model
        found = export(model, flat, Path(folder))
    assert same(found, expected)


def _export_saved_model(model: keras.Model, flat: list[Any], folder: Path) -> list[np.ndarray]:
    import tensorflow as tf

    model.export(folder / "saved_model", format="tf_saved_model", verbose=False)
    artifact = tf.saved_model.load(folder / "saved_model")  # owns the variables that serve() reads
    served = artifact.serve([tf.constant(x) for x in flat])
    return [y.numpy() for y in tf.nest.flatten(served)]


def _export_with_torch(model: keras.Model, flat: list[Any], folder: Path) -> list[np.ndarray]:
    import torch

    # torch.export fixes the sizes it sees unless told otherwise, so the example has our batch.
    signature = [keras.InputSpec(shape=x.shape, dtype=x.dtype.name) for x in flat]
    model.export(folder / "model.pt2", format="torch", input_signature=[signature], verbose=False)
    module = torch.export.load(folder / "model.pt2").module()
    served = module([torch.as_tensor(x) for x in flat])
    return [y.detach().numpy() for y in keras.tree.flatten(served)]


def trains_without_jit(make_layer: Callable[..., Any], inputs: Any) -> None:
    _check_training(make_layer, inputs, jit_compile=False)


def trains_with_jit(make_layer: Callable[..., Any], inputs: Any) -> None:
    _check_training(make_layer, inputs, jit_compile=True)


def _check_training(make_layer: Callable[..., Any], inputs: Any, *, jit_compile: bool) -> None:
    """Two steps of SGD: the loss is finite and goes down, and every weight moves."""
    layer = make_layer()
    model = _regression(layer, inputs, jit_compile)
    before = {variable.path: to_numpy(variable.value) for variable in layer.variables}
    losses = [_train_once(model, inputs) for _ in range(2)]
    assert np.isfinite(losses).all()
    assert losses[1] < losses[0]
    # Batch norm undoes the scale and the shift right before it: those may stay where they are.
    idle = ("/trainable_kernel_norm", "/bias") if layer.non_trainable_variables else ()
    for variable in layer.variables:
        moved = not np.array_equal(to_numpy(variable.value), before[variable.path])
        assert moved or variable.path.endswith(idle), variable.path


def _regression(layer: keras.layers.Layer, inputs: Any, jit_compile: bool) -> keras.Model:
    """The layer with all its outputs joined and one unit on top."""
    symbols = symbolic_inputs(inputs)
    outputs = [keras.layers.Flatten()(y) for y in keras.tree.flatten(layer(symbols))]
    joined = outputs[0] if len(outputs) == 1 else keras.layers.Concatenate()(outputs)
    model = keras.Model(keras.tree.flatten(symbols), keras.layers.Dense(1)(joined))
    model.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=jit_compile)
    return model


def _train_once(model: keras.Model, inputs: Any) -> float:
    flat = keras.tree.flatten(inputs)
    return float(model.train_on_batch(flat, np.full((flat[0].shape[0], 1), 3, "float32")))


def mask_passes_through(make_layer: Callable[..., Any], inputs: np.ndarray) -> None:
    """Masked steps behind the layer are left out of a mean; `inputs` has rank 3."""
    inputs = inputs.copy()
    inputs[1, 1:] = 0
    layer = make_layer()
    outputs = to_numpy(layer(keras.ops.convert_to_tensor(inputs)))
    symbols = keras.Input(inputs.shape[1:])
    pooled = keras.layers.GlobalAveragePooling1D()(layer(keras.layers.Masking()(symbols)))
    (found,) = predictions(keras.Model([symbols], pooled), [inputs])
    expected = outputs.mean(axis=1)
    assert not np.allclose(outputs[1, 0], expected[1], rtol=1e-2)
    expected[1] = outputs[1, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
