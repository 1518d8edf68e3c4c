# SPDX-License-Identifier: Apache-2.0
"""LHUCTower: what feeds what, its gates' options, and everything `check_layer` asks of a layer."""

from functools import partial

import keras
import numpy as np
import pytest

from mlayers.layers import LHUCTower
from support.check_layer import CHECKS, SLOW_CHECKS, check_layer, shapes_of, tensors_of
from support.check_model import mask_passes_through
from support.frameworks import to_numpy

RNG = np.random.default_rng(3)
X = RNG.normal(size=(6, 7)).astype("float32")
GATE = RNG.normal(size=(6, 4)).astype("float32")
X3 = RNG.normal(size=(4, 3, 7)).astype("float32")

RICH = {
    "output_dims": [8, 5, 3],
    "lhuc_output_dims": [[8], [4, 5], [6, 3]],
    "activations": ["tanh", "swish", "sigmoid2"],
    "initializers": ["he_uniform", "glorot_normal"],
    "kernel_regularizer": keras.regularizers.L2(0.05),
    "bias_regularizer": keras.regularizers.L1(0.03),
    "enable_batch_normalization": True,
    "batch_normalization_momentum": 0.9,
    "lhuc_enable_batch_normalization": False,
    "lhuc_use_learnable_weight_norm": False,
    "lhuc_kernel_regularizer": keras.regularizers.L1(0.02),
}
SMOOTH = {"output_dims": [5, 3], "activations": "tanh"}  # no unit is dead in any gradient
CASES = {
    "rich": (RICH, X),
    "rich_two_inputs": (RICH, (X, GATE)),
    "rank3": ({**SMOOTH, "enable_batch_normalization": True}, X3),
    "default": (SMOOTH, X),
    "gates_batch_norm": (
        {**SMOOTH, "lhuc_output_dims": [6], "lhuc_enable_batch_normalization": True},
        (X, GATE),
    ),
    "renorm": (
        {
            **SMOOTH,
            "enable_batch_normalization": True,
            "batch_normalization_renorm": True,
            "batch_normalization_renorm_clipping": {"rmax": 1.2, "rmin": 0.8, "dmax": 0.3},
        },
        X,
    ),
    "prelu": ({"output_dims": [4, 3], "activations": "prelu"}, X),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", CASES)
def test_is_a_good_keras_layer(case, check):
    options, inputs = CASES[case]
    check_layer(check, partial(LHUCTower, **options), inputs)


@pytest.mark.parametrize("check", SLOW_CHECKS)
def test_is_a_good_keras_layer_compiled(check):
    two_layers = {
        "output_dims": [5, 3],
        "lhuc_output_dims": [[4, 5], [3]],
        "activations": ["swish", "sigmoid2"],
    }
    check_layer(check, partial(LHUCTower, **{**RICH, **two_layers}), (X, GATE))


def test_mask_passes_through():
    mask_passes_through(partial(LHUCTower, **SMOOTH), X3)


def make(inputs=X, **options):
    layer = LHUCTower(**options)
    layer.build(shapes_of(inputs))
    return layer


def weights_by_path(layer, part):
    return [weight for weight in layer.weights if part in weight.path]


def call(layer, *inputs):
    inputs = tensors_of(inputs)
    return to_numpy(layer(inputs[0] if len(inputs) == 1 else inputs))


def test_one_input_feeds_tower_and_gates():
    layer = make((X, X), **SMOOTH)
    np.testing.assert_array_equal(call(layer, X), call(layer, X, X))


def test_each_of_two_inputs_feeds_its_own():
    layer = make((X, GATE), **SMOOTH)
    kernels = {weight.path: tuple(weight.shape) for weight in layer.weights}
    widths = {path: shape[0] for path, shape in kernels.items() if path.endswith("kernel")}
    assert {width for path, width in widths.items() if "lhuc/" in path} == {4}
    # A gate of an all-zero input is 2 * sigmoid(0) = 1: the tower is then a plain MLP.
    h = X
    for index in (1, 2):
        kernel, _, bias = (
            to_numpy(weight.value) for weight in weights_by_path(layer, f"layer_{index}/dense/")
        )
        h = h @ kernel + bias
        h = np.tanh(h) if index == 1 else h
    np.testing.assert_allclose(call(layer, X, np.zeros_like(GATE)), h, rtol=1e-4, atol=1e-5)
    assert not np.allclose(call(layer, X, GATE), h, atol=1e-3)


def test_gates_stay_between_0_and_2():
    layer = make((X, GATE), output_dims=[5], activations=[None])
    ungated = call(layer, X, np.zeros_like(GATE))
    ratio = call(layer, X, 100 * GATE) / ungated
    assert ratio.min() >= 0
    assert ratio.max() <= 2 + 1e-5
    assert ratio.min() < 0.01
    assert ratio.max() > 1.99


def test_weight_paths_match_a_layout_map():
    paths = [weight.path for weight in make(**RICH, name="lhuc_tower").weights]
    for expected in (
        "lhuc_tower/layer_1/dense/kernel",
        "lhuc_tower/layer_3/dense/bias",
        "lhuc_tower/layer_2/dense/trainable_kernel_norm",
    ):
        assert expected in paths
    assert len([path for path in paths if "lhuc/" in path and path.endswith("kernel")]) == 5


@pytest.mark.parametrize(
    ("given", "gates"),
    [
        (None, [[8], [5], [3]]),
        ([], [[8], [5], [3]]),
        ([10, 6], [[10, 6, 8], [10, 6, 5], [10, 6, 3]]),
        ([[8], [4, 5], [6, 7, 3]], [[8], [4, 5], [6, 7, 3]]),
        (((8,), (4, 5), (3,)), [[8], [4, 5], [3]]),
    ],
)
def test_lhuc_output_dims(given, gates):
    layer = make(output_dims=[8, 5, 3], lhuc_output_dims=given)
    found = [
        [
            weight.shape[1]
            for weight in weights_by_path(layer, f"layer_{index}/lhuc")
            if weight.path.endswith("kernel")
        ]
        for index in (1, 2, 3)
    ]
    assert found == gates


OVERRIDES = {
    "use_bias": (True, False),
    "use_weight_norm": (True, False),
    "use_learnable_weight_norm": (True, False),
    "kernel_regularizer": (keras.regularizers.L2(0.05), keras.regularizers.L1(0.02)),
    "bias_regularizer": (keras.regularizers.L2(0.05), keras.regularizers.L1(0.02)),
    "enable_batch_normalization": (False, True),
    "batch_normalization_momentum": (0.99, 0.5),
    "batch_normalization_renorm": (False, True),
    "batch_normalization_renorm_clipping": ({"rmax": 2.0}, {"rmax": 3.0}),
    "batch_normalization_renorm_momentum": (0.99, 0.5),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_lhuc_params_answers_what_the_gates_use(name):
    own, other = OVERRIDES[name]
    assert LHUCTower([5, 3], **{name: own}).lhuc_params(name) == own
    overridden = LHUCTower([5, 3], **{name: own, f"lhuc_{name}": other})
    assert overridden.lhuc_params(name) == other
    assert getattr(overridden, name) == own
    again = LHUCTower.from_config(overridden.get_config())
    restored = again.lhuc_params(name)
    if name.endswith("regularizer"):
        restored, other = restored.get_config(), other.get_config()
    assert restored == other


@pytest.mark.parametrize("name", ["kernel_regularizer", "bias_regularizer"])
def test_an_override_given_as_none_means_none(name):
    options = {"output_dims": [5, 3], name: keras.regularizers.L2(0.05)}
    assert len(make(**options).losses) == 4
    layer = make(**options, **{f"lhuc_{name}": None})
    assert layer.lhuc_params(name) is None
    assert len(layer.losses) == 2
    restored = LHUCTower.from_config(layer.get_config())
    restored.build(shapes_of(X))
    assert len(restored.losses) == 2


def test_lhuc_params_refuses_a_name_the_gates_do_not_have():
    with pytest.raises(ValueError, match=r"LHUCTower.*Received: .*use_biass"):
        LHUCTower([5, 3]).lhuc_params("use_biass")


@pytest.mark.parametrize(
    ("override", "part", "with_it", "without"),
    [
        ("lhuc_use_bias", "lhuc/dense_0/bias", 2, 0),
        ("lhuc_use_learnable_weight_norm", "lhuc/dense_0/trainable_kernel_norm", 2, 0),
        ("lhuc_use_weight_norm", "lhuc/dense_0/trainable_kernel_norm", 2, 0),
    ],
)
def test_overrides_reach_the_gates_alone(override, part, with_it, without):
    for value, count in ((True, with_it), (False, without)):
        layer = make(output_dims=[5, 3], **{override: value})
        assert len(weights_by_path(layer, part)) == count
        assert len(weights_by_path(layer, "/dense/bias")) == 2
        assert len(weights_by_path(layer, "/dense/trainable_kernel_norm")) == 2


def test_losses_survive_the_config():
    layer = make(**RICH)
    assert len(layer.losses) == 3 + 3 + 5 + 5  # kernels and biases of the tower, of the gates
    config = layer.get_config()
    for _ in range(2):
        restored = LHUCTower.from_config(config)
        restored.build(shapes_of(X))
        restored.set_weights(layer.get_weights())
        found, expected = ([float(x) for x in part.losses] for part in (restored, layer))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_batch_norms_of_the_tower():
    layer = make(output_dims=[8, 5, 3], enable_batch_normalization=True)
    means = [weight.path for weight in layer.weights if weight.path.endswith("moving_mean")]
    of_tower = [path for path in means if "lhuc/" not in path]
    assert len(of_tower) == 3  # the input's and, but for the last, each layer's
    assert not [path for path in of_tower if "layer_3" in path]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("output_dims", []),
        ("output_dims", 8),
        ("output_dims", [8, 0, 3]),
        ("lhuc_output_dims", 4),
        ("lhuc_output_dims", [[8], [5]]),
        ("lhuc_output_dims", [[8], [5], [3], [3]]),
        ("lhuc_output_dims", [[8], [5], [4]]),
        ("lhuc_output_dims", [[8], [], [3]]),
        ("lhuc_output_dims", [[8], 5, [3]]),
        ("lhuc_output_dims", [4.5]),
        ("lhuc_output_dims", [0]),
        ("activations", ["relu", "tanh"]),
        ("activations", ["relu"] * 4),
        ("initializers", ["zeros"] * 4),
        ("kernel_regularizer", "no such regularizer"),
        ("enable_batch_normalization", "yes"),
        ("batch_normalization_momentum", 1.5),
        ("batch_normalization_renorm_clipping", {"max": 3}),
        ("lhuc_use_bias", "no"),
        ("lhuc_kernel_regularizer", "no such regularizer"),
        ("lhuc_batch_normalization_momentum", -1),
        ("lhuc_batch_normalization_renorm_clipping", {"rmax": 0.5, "rmin": 0.8}),
    ],
)
def test_constructor_refuses(argument, value):
    with pytest.raises(ValueError, match=rf"^LHUCTower: '{argument}(\[\d\])?' .*Received: "):
        LHUCTower(**{"output_dims": [8, 5, 3], argument: value})


@pytest.mark.parametrize("name", ["lhuc_use_biass", "lhuc_activations", "lhuc_output_dim"])
def test_unknown_lhuc_options_are_refused(name):
    with pytest.raises(ValueError, match=f"LHUCTower.*{name}"):
        LHUCTower([8, 5], **{name: None})


@pytest.mark.parametrize("inputs", [(X,), (X, X, X)], ids=["one", "three"])
def test_call_refuses_a_list_of_another_length_than_two(inputs):
    with pytest.raises(ValueError, match=r"LHUCTower.*Received: "):
        LHUCTower([5, 3])(tensors_of(inputs))


def test_call_refuses_inputs_of_two_batches():
    with pytest.raises(ValueError, match=r"LHUCTower.*Received: "):
        LHUCTower([5, 3])(tensors_of((X, GATE[:3])))
