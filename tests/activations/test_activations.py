# SPDX-License-Identifier: Apache-2.0
"""Activations by name: formulas, spellings, saving, and what the original got wrong."""

import json
import math

import keras
import numpy as np
import pytest

from mlayers import activations
from support.frameworks import value_and_grads

X = np.array([[-3.0, -2.5, -1.0, -0.3, 0.0, 0.4, 1.0, 1.5, 2.5, 3.0]], "float32")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
FORMULAS = {
    "exponential": np.exp,
    "gelu": np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "hardsigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "linear": lambda x: x,
    "selu": lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(x)),
    "sigmoid": sigmoid,
    "sigmoid2": lambda x: 2 * sigmoid(x),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "swish": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
    "leakyrelu": lambda x: np.where(x > 0, x, 0.3 * x),
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "softmax": softmax,
    "thresholdedrelu": lambda x: np.where(x > 1, x, 0),
    "prelu": lambda x: np.maximum(x, 0),  # its slope starts at 0
}


def apply(activation, x=X):
    return keras.ops.convert_to_numpy(activation(keras.ops.convert_to_tensor(x)))


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    expected = FORMULAS[name](X.astype("float64"))
    np.testing.assert_allclose(apply(activations.get(name)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_names_in_any_case(name):
    for spelling in (name.upper(), name.title()):
        np.testing.assert_array_equal(
            apply(activations.get(spelling)), apply(activations.get(name))
        )


@pytest.mark.parametrize("name", FORMULAS)
def test_round_trip_through_json(name):
    saved = activations.serialize(activations.get(name))
    text = json.dumps(saved)
    for config in (saved, json.loads(text), saved):  # twice: reading does not use it up
        restored = activations.deserialize(config)
        np.testing.assert_array_equal(apply(restored), apply(activations.get(name)))
        assert json.dumps(activations.serialize(restored)) == text
    assert json.dumps(saved) == text


@pytest.mark.parametrize("name", FORMULAS)
def test_gradient_by_finite_differences(name):
    x = np.array([[-2.2, -0.7, 0.35, 0.8, 1.6, 2.2]], "float32")  # off the kinks
    upstream = np.array([[1.0, -2.0, 0.5, 1.5, -1.0, 0.25]], "float32")
    _, (grad,) = value_and_grads(activations.get(name), [x], upstream)
    wide, step = x.astype("float64"), 1e-6
    for column in range(x.shape[1]):
        shift = step * np.eye(x.shape[1])[column]
        slope = (FORMULAS[name](wide + shift) - FORMULAS[name](wide - shift)) / (2 * step)
        np.testing.assert_allclose(grad[0, column], np.sum(slope * upstream), rtol=1e-3, atol=1e-4)


LAYERS_WITH_OPTIONS = [
    keras.layers.LeakyReLU(0.05),
    keras.layers.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.3),
    keras.layers.ELU(0.5),
    keras.layers.Softmax(axis=0),
    keras.layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25), shared_axes=[1]),
]


@pytest.mark.parametrize("layer", LAYERS_WITH_OPTIONS, ids=lambda layer: type(layer).__name__)
def test_keras_layers_keep_their_options(layer):
    saved = json.loads(json.dumps(activations.serialize(activations.get(layer))))
    np.testing.assert_allclose(apply(activations.get(saved)), apply(layer), rtol=1e-6)


def test_layer_class():
    np.testing.assert_array_equal(apply(activations.get(keras.layers.ReLU)), np.maximum(X, 0))


@keras.saving.register_keras_serializable(package="mlayers_tests")
def halved(x):
    return x / 2


def test_functions():
    np.testing.assert_array_equal(apply(activations.get(halved)), X / 2)
    saved = json.loads(json.dumps(activations.serialize(activations.get(halved))))
    np.testing.assert_array_equal(apply(activations.deserialize(saved)), X / 2)
    np.testing.assert_allclose(apply(activations.get(keras.activations.tanh)), np.tanh(X), 1e-5)
    np.testing.assert_array_equal(apply(activations.get(lambda x: x + 1)), X + 1)


def test_none_stays_none():
    assert activations.get(None) is None
    assert activations.serialize(None) is None
    assert activations.deserialize(None) is None


@pytest.mark.parametrize("name", ["prelu", keras.layers.PReLU, keras.layers.PReLU()])
def test_stateful_activations_are_never_shared(name):
    first, second = activations.get(name), activations.get(name)
    assert first is not second
    apply(first)
    apply(second)
    first.weights[0].assign(np.full(X.shape[1:], 0.5, "float32"))
    np.testing.assert_array_equal(apply(second), np.maximum(X, 0))
    np.testing.assert_array_equal(apply(activations.get(first)), np.maximum(X, 0))


@pytest.mark.parametrize("name", ["reluu", "", "{'name': 'ReLU'}", "__import__('os').getpid()"])
def test_unknown_names_are_refused_and_never_run_as_code(name):
    with pytest.raises(ValueError, match=r"activations\.get: .*Received: ") as error:
        activations.get(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("identifier", [3, 2.5, ["relu"], {3}], ids=repr)
def test_things_that_are_no_activation(identifier):
    with pytest.raises(TypeError, match=r"activations\.get: 'identifier' .*Received: "):
        activations.get(identifier)


def test_dicts_without_a_name():
    with pytest.raises(ValueError, match=r"activations\.deserialize: 'config' .*Received: "):
        activations.deserialize({"alpha": 0.1})


def test_dicts_of_the_original():
    config = {"name": "LeakyReLU", "alpha": 0.1}
    np.testing.assert_allclose(
        apply(activations.deserialize(config)), np.where(X > 0, X, 0.1 * X), rtol=1e-6
    )
    assert config == {"name": "LeakyReLU", "alpha": 0.1}
