# SPDX-License-Identifier: Apache-2.0
"""Dense: its kernel norm, its errors, and everything `check_layer` asks of a layer."""

from functools import partial

import keras
import numpy as np
import pytest

from mlayers.layers import Dense
from support.check_layer import CHECKS, SLOW_CHECKS, check_layer, shapes_of, tensors_of
from support.check_model import mask_passes_through
from support.frameworks import to_numpy, weight_gradients

RNG = np.random.default_rng(1)
X = RNG.normal(size=(6, 7)).astype("float32")
X3 = RNG.normal(size=(4, 3, 7)).astype("float32")

RICH = {
    "units": 5,
    "activation": "sigmoid2",
    "kernel_initializer": "he_uniform",
    "bias_initializer": keras.initializers.Constant(0.2),
    "kernel_regularizer": keras.regularizers.L2(0.05),
    "bias_regularizer": "l1",
    "allow_kernel_norm": True,
    "kernel_norm_trainable": True,
}
CASES = {
    "rich": (RICH, X),
    "plain": ({"units": 4}, X),
    "tanh": ({"units": 4, "activation": "tanh"}, X),
    "rank3_fixed_norm": ({"units": 4, "use_bias": False, "allow_kernel_norm": True}, X3),
    "prelu": ({"units": 4, "activation": "prelu"}, X),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", CASES)
def test_is_a_good_keras_layer(case, check):
    options, inputs = CASES[case]
    check_layer(check, partial(Dense, **options), inputs)


@pytest.mark.parametrize("check", SLOW_CHECKS)
def test_is_a_good_keras_layer_compiled(check):
    check_layer(check, partial(Dense, **RICH), X)


def test_mask_passes_through():
    mask_passes_through(partial(Dense, **RICH), X3)


def make(inputs=X, **options):
    layer = Dense(**options)
    layer.build(shapes_of(inputs))
    return layer


def column_norms(kernel):
    return np.sqrt((kernel.astype("float64") ** 2).sum(0))


def test_initial_norm_is_the_initial_column_norm():
    layer = make(units=5, allow_kernel_norm=True, kernel_norm_trainable=True)
    kernel, norm = (to_numpy(weight.value) for weight in layer.trainable_variables[:2])
    np.testing.assert_allclose(norm, column_norms(kernel), rtol=1e-5)
    # So the layer starts out as the plain one with the same kernel.
    np.testing.assert_allclose(to_numpy(layer(tensors_of(X))), X @ kernel, rtol=1e-4, atol=1e-5)


def test_initial_norm_follows_a_kernel_drawn_at_random():
    first, second = (
        make(units=5, allow_kernel_norm=True, kernel_norm_trainable=True) for _ in range(2)
    )
    for layer in (first, second):
        kernel, norm = (to_numpy(weight.value) for weight in layer.trainable_variables[:2])
        np.testing.assert_allclose(norm, column_norms(kernel), rtol=1e-5)
    assert not np.array_equal(first.get_weights()[0], second.get_weights()[0])


def test_norm_without_training_makes_unit_columns():
    layer = make(units=5, allow_kernel_norm=True, use_bias=False)
    layer.set_weights([RNG.normal(size=(7, 5)).astype("float32") * 3])
    in_use = to_numpy(layer(tensors_of(np.eye(7, dtype="float32"))))
    np.testing.assert_allclose(column_norms(in_use), np.ones(5), rtol=1e-5)


def test_norm_must_be_allowed_before_it_is_trained():
    layer = make(units=5, kernel_norm_trainable=True)  # as the original: no norm, no weight for it
    assert len(layer.trainable_variables) == 2


@pytest.mark.parametrize("trainable", [False, True])
def test_gradient_is_finite_on_a_zero_column(trainable):
    layer = make(units=3, allow_kernel_norm=True, kernel_norm_trainable=trainable)
    weights = layer.get_weights()
    weights[0][:, 1] = 0
    weights[0][:, 2] = 1e-25
    layer.set_weights(weights)
    assert np.isfinite(to_numpy(layer(tensors_of(X)))).all()
    for grad in weight_gradients(layer, tensors_of(X)):
        assert np.isfinite(grad).all()
    # A zero column is scaled by rsqrt(1e-6) = 1000 times its norm in use.
    scale = 1000 * (weights[1][1] if trainable else 1)
    grad_kernel = weight_gradients(layer, tensors_of(X))[0]
    np.testing.assert_allclose(grad_kernel[:, 1], scale * X.sum(0), rtol=1e-4, atol=1e-4)


def test_losses_are_the_regularizers_of_the_raw_kernel_and_the_bias():
    layer = make(**RICH)
    layer(tensors_of(X))
    kernel, bias = (to_numpy(weight.value) for weight in (layer.kernel, layer.bias))
    expected = sorted([0.05 * (kernel**2).sum(), 0.01 * np.abs(bias).sum()])
    np.testing.assert_allclose(sorted(float(loss) for loss in layer.losses), expected, rtol=1e-5)


def test_weights_have_the_names_that_layout_maps_match():
    layer = make(**RICH, name="dense")
    assert [variable.path for variable in layer.variables] == [
        "dense/kernel",
        "dense/trainable_kernel_norm",
        "dense/bias",
    ]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("units", 0),
        ("units", -3),
        ("units", 2.5),
        ("units", True),
        ("units", "8"),
        ("units", None),
        ("use_bias", 1),
        ("allow_kernel_norm", "yes"),
        ("kernel_norm_trainable", 0),
        ("kernel_initializer", "no such initializer"),
        ("bias_initializer", "no such initializer"),
        ("kernel_regularizer", "no such regularizer"),
        ("bias_regularizer", "no such regularizer"),
    ],
)
def test_constructor_refuses(argument, value):
    with pytest.raises(ValueError, match=f"^Dense: '{argument}' .*Received: ") as error:
        Dense(**{"units": 4, argument: value})
    assert repr(value) in str(error.value)


def test_constructor_refuses_an_unknown_activation():
    with pytest.raises(ValueError, match="unknown activation"):
        Dense(4, activation="reluu")


@pytest.mark.parametrize("argument", ["partitioner", "optimizer", "inactive_relu_monitor"])
def test_options_without_a_keras_counterpart_are_not_accepted(argument):
    with pytest.raises((TypeError, ValueError), match=argument):
        Dense(4, **{argument: None})


def test_call_refuses_another_width_than_it_was_built_with():
    layer = make(units=4)
    with pytest.raises(ValueError, match="7"):
        layer(tensors_of(X[:, :6]))


@pytest.mark.parametrize("shape", [(7,), ()])
def test_call_refuses_too_low_a_rank(shape):
    with pytest.raises(ValueError, match=r"ndim|rank|dimension"):
        Dense(4)(tensors_of(np.zeros(shape, "float32")))


def test_build_refuses_an_unknown_width():
    with pytest.raises(ValueError, match="Dense"):
        Dense(4).build((3, None))


def test_activation_layers_are_not_shared():
    shared = keras.layers.PReLU()
    first, second = (make(units=4, activation=shared) for _ in range(2))
    values = [np.full_like(weight, 0.5) for weight in first.get_weights()]
    before = second.get_weights()
    first.set_weights(values)
    for kept, weight in zip(before, second.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, weight)
    assert not shared.built
