# SPDX-License-Identifier: Apache-2.0
"""What LHUCTower's gates train, where they start, and what training drops."""

import keras
import numpy as np
import pytest

from mlayers.layers import MLP, LHUCTower
from support.check_layer import shapes_of, tensors_of
from support.check_model import functional
from support.frameworks import to_numpy, value_and_grads
from support.towers import TANH, make, sigmoid

RNG = np.random.default_rng(9)
X = RNG.normal(size=(6, 7)).astype("float32")
GATE = RNG.normal(size=(6, 4)).astype("float32")


# --- stop_gradient ---


def gradients(function, *tensors):
    return value_and_grads(
        lambda *t: keras.ops.sum(function(*t)), [*tensors], np.ones((), "float32")
    )[1]


@pytest.mark.parametrize("on", ["input", "output"])
def test_gates_do_not_train_their_one_input(on):
    stopped, fed = (make(X, gate_on=on, stop_gradient=stop) for stop in (True, False))
    fed.set_weights(stopped.get_weights())
    np.testing.assert_array_equal(to_numpy(stopped(X)), to_numpy(fed(X)))
    both = make((X, X), gate_on=on)
    both.set_weights(stopped.get_weights())
    of_tower, _ = gradients(lambda x, g: both((x, g)), X, X)
    (found,) = gradients(stopped, X)
    np.testing.assert_allclose(found, of_tower, rtol=1e-5, atol=1e-6)
    assert not np.allclose(gradients(fed, X)[0], of_tower, atol=1e-3)
    assert not np.any(gradients(lambda x: stopped.gates(x)[0], X)[0])


def test_of_a_pair_the_gates_train_the_prior_alone():
    stopped = make((X, GATE), gate_on="input", stop_gradient=True)
    plain = make((X, np.concatenate([GATE, X], axis=1)), gate_on="input")
    plain.set_weights(stopped.get_weights())
    found = gradients(lambda x, g: stopped((x, g)), X, GATE)
    of_x, of_gate_input = gradients(
        lambda x, g: plain((x, g)), X, np.concatenate([GATE, X], axis=1)
    )
    np.testing.assert_allclose(found[0], of_x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], of_gate_input[:, :4], rtol=1e-5, atol=1e-6)
    assert np.abs(found[1]).min() > 0
    of_gates = gradients(lambda x, g: stopped.gates((x, g))[1], X, GATE)
    assert not np.any(of_gates[0])
    assert np.any(of_gates[1])


# --- identity_start ---

NORMS = {
    "norm": {},
    "no_norm": {"use_weight_norm": False},
    "no_norm_in_gates": {"lhuc_use_weight_norm": False},
    "no_bias_in_gates": {"lhuc_use_bias": False},
}


def plain_mlp(layer, **options):
    """An MLP with the tower's dense layers."""
    mlp = MLP([5, 3], activations="tanh", **options)
    mlp.build(X.shape)
    mlp.set_weights([to_numpy(w.value) for w in layer.weights if "/dense/" in w.path])
    return mlp


@pytest.mark.parametrize("gate_dims", [None, [6]], ids=["one_layer", "two_layers"])
@pytest.mark.parametrize("on", ["input", "output"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_tower_starts_as_a_plain_mlp(norm, on, gate_dims):
    options = {**TANH, "gate_on": on, **NORMS[norm]}
    layer = LHUCTower(lhuc_output_dims=gate_dims, identity_start=True, **options)
    layer.build(shapes_of((X, GATE)))
    mlp = plain_mlp(layer, use_weight_norm=options.get("use_weight_norm", True))
    found = to_numpy(layer(tensors_of((X, GATE))))
    np.testing.assert_array_equal(found, to_numpy(mlp(X)))
    for gate in to_numpy(layer.gates(GATE)):
        np.testing.assert_array_equal(gate, 1)
    other = LHUCTower(lhuc_output_dims=gate_dims, **options)
    other.build(shapes_of((X, GATE)))
    assert [w.shape for w in other.weights] == [w.shape for w in layer.weights]
    assert np.abs(to_numpy(other.gates(GATE)[0]) - 1).max() > 1e-3


@pytest.mark.parametrize("norm", NORMS)
def test_gates_that_start_at_1_learn(norm):
    model = functional(
        LHUCTower(lhuc_output_dims=[6], identity_start=True, **TANH, **NORMS[norm]), (X, GATE)
    )
    layer = model.layers[-1]
    model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
    start = {w.path: to_numpy(w.value) for w in layer.weights}
    for _ in range(3):
        model.train_on_batch([X, GATE], np.ones((6, 3), "float32"))
    for weight in layer.weights:  # the gates' first layers too
        assert np.any(to_numpy(weight.value) != start[weight.path]), weight.path
    for gate in to_numpy(layer.gates(GATE)):
        assert (np.abs(gate - 1) > 1e-6).mean() > 0.5
        assert gate.std(axis=0).min() > 0  # not by its bias alone


@pytest.mark.parametrize("scale", [1.25, 3, 8.0])
def test_other_scales_start_at_1_by_their_bias(scale):
    layer = LHUCTower(lhuc_output_dims=[6], gate_scale=scale, identity_start=True, **TANH)
    layer.build(shapes_of((X, GATE)))
    found = to_numpy(layer(tensors_of((X, GATE))))
    np.testing.assert_allclose(found, to_numpy(plain_mlp(layer)(X)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"gate_scale": 1.0}, "gate_scale <= 1"),
        ({"gate_scale": 0.5}, "gate_scale <= 1"),
        ({"gate_scale": 3.0, "lhuc_use_bias": False}, "lhuc_use_bias"),
        ({"gate_scale": 3.0, "use_bias": False}, "lhuc_use_bias"),
        ({"use_learnable_weight_norm": False}, "lhuc_use_learnable_weight_norm"),
        ({"lhuc_use_learnable_weight_norm": None}, "lhuc_use_learnable_weight_norm"),
    ],
)
def test_where_gates_cannot_start_at_1(options, why):
    with pytest.raises(ValueError, match=rf"^LHUCTower: 'identity_start' must .*{why}.*Received"):
        LHUCTower([5, 3], identity_start=True, **options)


# --- gate_dropout ---


def gates_in_training(hidden, times=40):
    """The values that the gate of a tower of one unit takes: weights 1, hidden bias 1, input 1."""
    layer = LHUCTower([1], hidden, gate_dropout=0.5, use_weight_norm=False)
    one = np.ones((times, 1), "float32")
    layer.build(one.shape)
    layer.set_weights([np.ones(w.shape) for w in layer.weights])
    found = to_numpy(layer(tensors_of(one), training=True))
    np.testing.assert_array_equal(to_numpy(layer(tensors_of(one))).std(), 0)
    return set(np.round(found.ravel(), 4).tolist())


@pytest.mark.parametrize(
    ("hidden", "logits"), [(None, (1, 3)), ([1], (1, 5))], ids=["one_layer", "two_layers"]
)
def test_dropout_is_before_the_last_layer(hidden, logits):
    keras.utils.set_random_seed(1)
    # The tower's unit is 2. What is not dropped is doubled: the input 1, or the hidden unit 2.
    wanted = {round(float(2 * 2 * sigmoid(logit)), 4) for logit in logits}
    assert sorted(gates_in_training(hidden)) == pytest.approx(sorted(wanted))


def test_gates_are_those_of_inference_inside_a_training_step():
    tower = LHUCTower([8, 3], [6], gate_dropout=0.5)

    class Model(keras.Model):
        def call(self, inputs, training=None):
            return tower(inputs, training=training), *tower.gates(inputs)

    x = np.ones((4, 5), "float32")
    model = Model()
    expected = model(x, training=False)[1:]
    for found, gates in zip(model(x, training=True)[1:], expected, strict=True):
        np.testing.assert_allclose(to_numpy(found), to_numpy(gates), rtol=1e-6)


def test_dropout_is_off_in_inference_and_where_there_is_no_rate():
    layer, without = (make((X, GATE), gate_dropout=rate, lhuc_output_dims=[6]) for rate in (0.5, 0))
    assert [w.path.split("/", 1)[1] for w in layer.weights] == [
        w.path.split("/", 1)[1] for w in without.weights
    ]
    without.set_weights(layer.get_weights())
    inputs = tensors_of((X, GATE))
    np.testing.assert_array_equal(to_numpy(layer(inputs)), to_numpy(without(inputs)))
    first, second = (to_numpy(layer(inputs, training=True)) for _ in range(2))
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(
        to_numpy(without(inputs, training=True)), to_numpy(without(inputs))
    )
    assert len(without.variables) == len(without.weights) == len(layer.weights)
