# SPDX-License-Identifier: Apache-2.0
"""fold_weight_norm: the same predictions from plain kernels, for every kind of layer and model."""

import keras
import numpy as np
import pytest

from mlayers.layers import MLP, Dense, GroupInt, LHUCTower, fold_weight_norm
from support.check_layer import check_close, shapes_of, tensors_of
from support.check_model import OneLayerModel, functional, predictions, shake_weights
from support.frameworks import float64_allowed, to_numpy

RNG = np.random.default_rng(11)
X = RNG.normal(size=(6, 7)).astype("float32")
GATE = RNG.normal(size=(6, 4)).astype("float32")
FIELDS = [RNG.normal(size=(6, 5)).astype("float32") for _ in range(3)]

LAYERS = {
    "dense": (Dense, {"units": 4, "allow_kernel_norm": True, "kernel_norm_trainable": True}, X),
    "dense_fixed": (Dense, {"units": 4, "allow_kernel_norm": True, "activation": "prelu"}, X),
    "dense_plain": (Dense, {"units": 4}, X),
    "mlp": (MLP, {"output_dims": [5, 3], "enable_batch_normalization": True}, X),
    "tower": (LHUCTower, {"output_dims": [5, 3], "lhuc_output_dims": [4]}, (X, GATE)),
    "tower_gates": (
        LHUCTower,
        {
            "output_dims": [5, 3],
            "use_weight_norm": False,
            "lhuc_use_weight_norm": True,
            "kernel_regularizer": "l2",
        },
        (X, GATE),
    ),
    "group_int": (
        GroupInt,
        {"use_attention": True, "attention_units": [3, 1]},
        (FIELDS[:1], FIELDS[1:]),
    ),
    "dot": (GroupInt, {"interaction_type": "dot"}, (FIELDS[:1], FIELDS[1:])),
}
MODELS = {"functional": functional, "subclassed": lambda layer, inputs: OneLayerModel(layer)}


def make(kind, **options):
    cls, defaults, inputs = LAYERS[kind]
    layer = cls(**defaults, **options)
    layer.build(shapes_of(inputs))
    shake_weights(layer)
    return layer, inputs


def dense_layers(layer):
    return [part for part in layer._flatten_layers() if isinstance(part, Dense)]


def values(layer):
    return {variable.path: to_numpy(variable.value) for variable in layer.variables}


def check_is_folded(copy, original):
    """Nothing in the copy is normalised, its config says so, and the weights are its own."""
    assert type(copy) is type(original)
    assert not any(layer.allow_kernel_norm for layer in dense_layers(copy))
    for layer in copy._flatten_layers():
        if isinstance(layer, (Dense, MLP, LHUCTower, GroupInt)):
            config = layer.get_config()
            assert not config.get("allow_kernel_norm")
            assert not config.get("use_weight_norm")
            assert not config.get("lhuc_use_weight_norm")
    assert not [v.path for v in copy.variables if "trainable_kernel_norm" in v.path]
    assert not {id(v) for v in copy.variables} & {id(v) for v in original.variables}


def check_predicts_and_saves(copy, original, inputs, folder):
    expected = predictions(original, inputs)
    check_close(predictions(copy, inputs), expected)
    copy.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    check_close(predictions(loaded, inputs), expected)
    check_is_folded(loaded, original)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer(kind):
    layer, inputs = make(kind)
    before, config = values(layer), layer.get_config()
    copy = fold_weight_norm(layer)
    check_is_folded(copy, layer)
    check_close(copy(tensors_of(inputs)), layer(tensors_of(inputs)))
    assert copy.name == layer.name
    assert [v.path for v in copy.variables] == [
        v.path for v in layer.variables if "trainable_kernel_norm" not in v.path
    ]
    after = values(layer)
    assert layer.get_config() == config
    assert all(np.array_equal(value, after[path]) for path, value in before.items())


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("model_kind", MODELS)
def test_a_model(kind, model_kind, tmp_path):
    layer, inputs = make(kind)
    model = MODELS[model_kind](layer, inputs)
    if model_kind == "functional":
        inputs = keras.tree.flatten(inputs)
    predictions(model, inputs)
    copy = fold_weight_norm(model)
    check_is_folded(copy, model)
    check_predicts_and_saves(copy, model, inputs, tmp_path)


def test_a_sequential_model_that_was_trained(tmp_path):
    model = keras.Sequential([keras.Input((7,)), MLP([5, 3]), keras.layers.Dropout(0.5), Dense(1)])
    model.compile("adam", "mse")
    y = np.ones((6, 1), "float32")
    model.train_on_batch(X, y)
    copy = fold_weight_norm(model)
    expected = predictions(copy, X)
    assert not copy.compiled
    check_predicts_and_saves(copy, model, X, tmp_path)
    model.train_on_batch(X, y)  # and takes nothing of the copy with it
    check_close(predictions(copy, X), expected)


def test_shared_layers_stay_shared(tmp_path):
    shared = MLP([4, 7])
    x = keras.Input((7,))
    inner = keras.Model(x, shared(x) - shared(shared(x)))
    y = keras.Input((7,))
    model = keras.Model(y, inner(y) + inner(2 * y))
    shake_weights(model)
    copy = fold_weight_norm(model)
    assert len(copy.variables) == 4
    check_predicts_and_saves(copy, model, X, tmp_path)


@pytest.mark.parametrize("policy", ["float64", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", ["mlp", "tower"])
def test_dtype_policies(kind, policy):
    with float64_allowed():
        layer, inputs = make(kind, dtype=policy)
        tensors = tensors_of(inputs, layer.compute_dtype)
        copy = fold_weight_norm(layer)
        assert copy.dtype_policy == layer.dtype_policy
        assert {v.dtype for v in copy.variables} == {v.dtype for v in layer.variables}
        found, expected = copy(tensors), layer(tensors)
        assert found.dtype == expected.dtype
        tolerance = {"float64": 1e-12, "mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}[policy]
        found, expected = (keras.ops.cast(y, layer.variable_dtype) for y in (found, expected))
        check_close(found, expected, rtol=tolerance, atol=tolerance)


def test_kernels_are_those_in_use():
    layer, _ = make("dense")
    kernel, length, _ = layer.get_weights()
    kernel[:, 1] = 0
    layer.set_weights([kernel, *layer.get_weights()[1:]])
    expected = kernel * length / np.sqrt(np.maximum((kernel**2).sum(0), 1e-6))
    np.testing.assert_allclose(fold_weight_norm(layer).get_weights()[0], expected, rtol=1e-6)


@pytest.mark.parametrize("value", [None, "model.keras", Dense, np.ones(3)])
def test_refuses_what_is_no_layer(value):
    with pytest.raises(TypeError, match=r"^fold_weight_norm: 'model' must be .*Received: "):
        fold_weight_norm(value)


@pytest.mark.parametrize("model", [Dense(3), MLP([3]), keras.Sequential([MLP([3])])])
def test_refuses_what_is_not_built(model):
    with pytest.raises(ValueError, match=r"^fold_weight_norm: 'model' must be built.*Received: "):
        fold_weight_norm(model)


class Hidden(keras.Model):
    """Makes its MLP itself: no config can turn the norm off."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mlp = MLP([3])

    def call(self, inputs):
        return self.mlp(inputs)


class NoConfig(OneLayerModel):
    """Cannot be made from its config."""

    def get_config(self):
        raise NotImplementedError("no config")


@pytest.mark.parametrize(
    ("make_model", "why"),
    [(Hidden, r"config, which says nothing of .*mlp"), (lambda: NoConfig(MLP([3])), "no config")],
)
def test_refuses_a_model_that_its_config_does_not_describe(make_model, why):
    model = make_model()
    predictions(model, X)
    with pytest.raises(ValueError, match=f"^fold_weight_norm: 'model' must .*{why}.*Received: "):
        fold_weight_norm(model)


class Pair(keras.layers.Layer):
    """Two layers, which may be the same one."""

    def __init__(self, first, second, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = first, second

    def build(self, shape):
        for layer in (self.first, self.second):
            if not layer.built:  # which Keras does with a config of a built layer
                layer.build(shape)

    def call(self, inputs):
        return self.first(inputs) - 2 * self.second(inputs)

    def get_config(self):
        parts = {"first": self.first, "second": self.second}
        serialized = {k: keras.saving.serialize_keras_object(v) for k, v in parts.items()}
        return {**super().get_config(), **serialized}

    @classmethod
    def from_config(cls, config):
        parts = {k: keras.saving.deserialize_keras_object(config[k]) for k in ("first", "second")}
        return cls(**{**config, **parts})


def test_a_layer_in_two_places_of_a_subclass():
    mlp = MLP([3])
    layer = Pair(mlp, mlp)
    layer(tensors_of(X))
    shake_weights(layer)
    copy = fold_weight_norm(layer)
    assert copy.first is copy.second
    check_close(copy(tensors_of(X)), layer(tensors_of(X)))


def test_refuses_a_layer_of_two_functional_models():
    shared = MLP([4, 7])
    x = keras.Input((7,))
    inner = keras.Model(x, shared(x))
    model = keras.Model(x, shared(inner(shared(x))) + inner(x))
    with pytest.raises(ValueError, match=r"^fold_weight_norm: 'model' must .*mlp.*Received: "):
        fold_weight_norm(model)


def test_a_local_class_that_is_not_registered():
    class Local(keras.layers.Layer):
        def __init__(self, mlp=None, **kwargs):
            super().__init__(**kwargs)
            self.mlp = mlp

        def build(self, shape):
            if not self.mlp.built:  # which Keras does with a config of a built layer
                self.mlp.build(shape)

        def call(self, inputs):
            return self.mlp(inputs)

        def get_config(self):
            mlp = keras.saving.serialize_keras_object(self.mlp)
            return {**super().get_config(), "mlp": mlp}

        @classmethod
        def from_config(cls, config):
            return cls(**{**config, "mlp": keras.saving.deserialize_keras_object(config["mlp"])})

    layer = Local(MLP([3]))
    layer(tensors_of(X))
    check_close(fold_weight_norm(layer)(tensors_of(X)), layer(tensors_of(X)))
