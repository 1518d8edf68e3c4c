# SPDX-License-Identifier: Apache-2.0
"""MLP: which activation and which batch norm goes where, its errors, and `check_layer`."""

import copy
from functools import partial

import keras
import numpy as np
import pytest

from mlayers.insight import feature_insight_report
from mlayers.layers import MLP, Dense
from support.check_layer import CHECKS, SLOW_CHECKS, check_layer, shapes_of, tensors_of
from support.check_model import mask_passes_through
from support.frameworks import to_numpy

RNG = np.random.default_rng(2)
X = RNG.normal(size=(6, 7)).astype("float32")
SAVING = ["saved_functional_model_predicts_the_same", "saved_subclassed_model_predicts_the_same"]
X3 = RNG.normal(size=(4, 3, 7)).astype("float32")

RICH = {
    "output_dims": [8, 5, 3],
    "activations": ["tanh", "sigmoid2", "swish"],
    "initializers": ["he_uniform", "glorot_normal"],
    "kernel_regularizer": keras.regularizers.L2(0.05),
    "bias_regularizer": keras.regularizers.L1(0.03),
    "enable_batch_normalization": True,
    "batch_normalization_momentum": 0.9,
}
CASES = {
    "rich": (RICH, X),
    "rank3": ({"output_dims": [4], "enable_batch_normalization": True}, X3),
    "default": ({"output_dims": [16, 4], "activations": "tanh"}, X),
    "prelu": ({"output_dims": [4, 4, 4], "activations": "prelu"}, X),
    "renorm": (
        {
            "output_dims": [5, 3],
            "activations": "tanh",
            "enable_batch_normalization": True,
            "batch_normalization_renorm": True,
            "batch_normalization_renorm_clipping": {"rmax": 1.2, "rmin": 0.8, "dmax": 0.3},
            "batch_normalization_renorm_momentum": 0.9,
        },
        X,
    ),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", CASES)
def test_is_a_good_keras_layer(case, check):
    options, inputs = CASES[case]
    check_layer(check, partial(MLP, **options), inputs)


@pytest.mark.parametrize("check", SLOW_CHECKS)
def test_is_a_good_keras_layer_compiled(check):
    check_layer(check, partial(MLP, **RICH), X)


def test_mask_passes_through():
    mask_passes_through(partial(MLP, **RICH), X3)


def make(inputs=X, **options):
    layer = MLP(**options)
    layer.build(shapes_of(inputs))
    return layer


def parts(layer):
    """The layers inside in the order of the call, through the public `get_layer`."""
    found = []
    while True:
        try:
            found.append(layer.get_layer(len(found)))
        except ValueError:
            return found


def test_get_layer_goes_through_the_stack_in_order():
    layer = make(**RICH)
    kinds = [type(part).__name__ for part in parts(layer)]
    norm = "BatchNormalization"
    assert [kinds[i] for i in (0, 1, 2, 4, 5, 7)] == [norm, "Dense", norm, "Dense", norm, "Dense"]
    assert len(kinds) == 9  # and an activation after each
    h = tensors_of(X)
    for part in parts(layer):
        h = part(h)
    np.testing.assert_allclose(to_numpy(h), to_numpy(layer(tensors_of(X))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("index", [9, 100])
def test_get_layer_refuses_an_index_out_of_range(index):
    with pytest.raises(ValueError, match=rf"MLP.*index.*Received: .*{index}"):
        make(**RICH).get_layer(index)


@pytest.mark.parametrize(
    ("activations", "expected"),
    [
        (None, ["ReLU", "ReLU", None]),
        ("tanh", ["tanh", "tanh", None]),
        (["tanh", None, "relu"], ["tanh", None, "ReLU"]),
        (("tanh", "tanh", "tanh"), ["tanh", "tanh", "tanh"]),
    ],
)
def test_activations(activations, expected):
    layer = make(output_dims=[4, 4, 2], activations=activations)
    found = []
    for part in parts(layer):
        if isinstance(part, Dense):
            found.append(None)
        else:
            activation = isinstance(part, keras.layers.Activation)
            found[-1] = part.activation.__name__ if activation else type(part).__name__
    assert found == expected


def test_batch_norm_is_off_by_default_and_never_after_the_last_layer():
    assert not make(output_dims=[4, 2]).non_trainable_variables
    single = make(output_dims=[4], enable_batch_normalization=True)
    assert [type(part).__name__ for part in parts(single)] == ["BatchNormalization", "Dense"]


def test_initializers_shorter_than_the_stack_leave_the_rest_at_their_default():
    zeros = keras.initializers.Zeros()
    layer = make(output_dims=[4, 4, 2], initializers=[zeros], use_weight_norm=False)
    kernels = [to_numpy(p.kernel.value) for p in parts(layer) if isinstance(p, Dense)]
    assert not kernels[0].any()
    assert all(kernel.any() for kernel in kernels[1:])


def test_one_initializer_does_not_start_all_layers_alike():
    options = {"output_dims": [7, 7], "use_weight_norm": False}
    for initializer in ("glorot_normal", keras.initializers.GlorotNormal()):
        first, second = (
            to_numpy(part.kernel.value)
            for part in parts(make(**options, initializers=initializer))
            if isinstance(part, Dense)
        )
        assert not np.array_equal(first, second)


def test_stateful_activations_are_not_shared():
    layer = make(output_dims=[4, 4, 4], activations=keras.layers.PReLU())
    slopes = [weight for weight in layer.trainable_variables if "kernel" not in weight.path]
    slopes = [weight for weight in slopes if weight.path.endswith("alpha")]
    assert len(slopes) == len({id(weight) for weight in slopes}) == 2


def test_regularizers_survive_the_config():
    layer = make(**RICH)
    config = layer.get_config()
    kept = copy.deepcopy(config)
    for _ in range(2):
        restored = MLP.from_config(config)
        restored.build(shapes_of(X))
        restored.set_weights(layer.get_weights())
        np.testing.assert_allclose(
            [float(loss) for loss in restored.losses],
            [float(loss) for loss in layer.losses],
            rtol=1e-6,
        )
    assert len(layer.losses) == 6
    assert config == kept


SEGMENTS = {"segment_names": ["user", "item"], "segment_sizes": [4, 3]}


def test_segments_are_kept_and_change_nothing_else():
    plain, named = (MLP([8, 3], name="mlp", **options) for options in ({}, SEGMENTS))
    config = named.get_config()
    assert {name: config.pop(name) for name in SEGMENTS} == SEGMENTS
    expected = plain.get_config()
    assert {name: expected.pop(name) for name in SEGMENTS} == dict.fromkeys(SEGMENTS)
    assert config == expected
    assert MLP.from_config(expected).segment_names is None  # as files of before have it
    for layer in (plain, named):
        layer.build(shapes_of(X))
    named.set_weights(plain.get_weights())
    np.testing.assert_array_equal(*(to_numpy(layer(tensors_of(X))) for layer in (plain, named)))


@pytest.mark.parametrize("check", ["config_round_trips", *SAVING])
def test_segments_are_saved(check):
    check_layer(check, partial(MLP, **RICH, **SEGMENTS), X)


def test_segments_may_be_tuples_of_numpy_integers():
    layer = MLP([1], segment_names=("user", "item"), segment_sizes=(np.int64(4), 3))
    assert {name: layer.get_config()[name] for name in SEGMENTS} == SEGMENTS


@pytest.mark.parametrize(
    ("names", "sizes", "words"),
    [
        (["user", "item"], None, "'segment_names' and 'segment_sizes' go together"),
        (None, [4, 3], "'segment_names' and 'segment_sizes' go together"),
        (["user"], [4, 3], "'segment_sizes' must have one size for each of the 1 names"),
        (["user", "user"], [4, 3], "'segment_names' must be different names"),
        (["user", 3], [4, 3], "'segment_names' must be a list of strings"),
        ("ui", [4, 3], "'segment_names' must be a list of strings"),
        (["user", "item"], [4, -3], "'segment_sizes' must be a list of integers >= 0"),
        (["user", "item"], [4, True], "'segment_sizes' must be a list of integers >= 0"),
        (["user", "item"], 7, "'segment_sizes' must be a list of integers >= 0"),
        ([], [], "'segment_names' must be different names, at least one"),
    ],
)
def test_bad_segments_are_refused(names, sizes, words):
    with pytest.raises(ValueError, match=f"^MLP: {words}.*Received: "):
        MLP([8, 3], segment_names=names, segment_sizes=sizes)


def test_segments_must_fit_the_input():
    layer = MLP([8, 3], segment_names=["user", "item"], segment_sizes=[4, 4])
    words = r"^MLP: 'segment_sizes' must add up to the width of the input, 7. Received: \[4, 4\]"
    with pytest.raises(ValueError, match=words):
        layer.build(shapes_of(X))


def test_feature_insight_knows_the_segments():
    layer = make(output_dims=[8, 3], **SEGMENTS)
    label = np.arange(6)
    report = layer.feature_insight(X, label=label)
    assert report == feature_insight_report(layer, X, label=label, batch_size=4096)
    assert report == feature_insight_report(layer, X, *SEGMENTS.values(), label=label)
    assert [row.name for row in report.rows] == SEGMENTS["segment_names"]
    other = feature_insight_report(layer, X, ["all"], [7])
    assert [row.name for row in other.rows] == ["all"]


def test_feature_insight_needs_the_segments():
    with pytest.raises(ValueError, match=r"'segment_names' and 'segment_sizes' must be given"):
        make(output_dims=[8, 3]).feature_insight(X)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("output_dims", []),
        ("output_dims", 8),
        ("output_dims", [8, 0]),
        ("output_dims", [8, 2.5]),
        ("output_dims", None),
        ("activations", ["relu"]),
        ("activations", ["relu"] * 4),
        ("initializers", ["zeros"] * 4),
        ("initializers", "no such initializer"),
        ("kernel_regularizer", "no such regularizer"),
        ("bias_regularizer", 3),
        ("use_bias", "no"),
        ("use_weight_norm", 1),
        ("use_learnable_weight_norm", 1),
        ("enable_batch_normalization", "yes"),
        ("batch_normalization_momentum", 1.5),
        ("batch_normalization_momentum", "0.9"),
        ("batch_normalization_renorm", 1),
        ("batch_normalization_renorm_clipping", {"max": 3}),
        ("batch_normalization_renorm_clipping", {"rmax": 0.5, "rmin": 0.8}),
        ("batch_normalization_renorm_momentum", -0.1),
    ],
)
def test_constructor_refuses(argument, value):
    with pytest.raises(ValueError, match=f"^MLP: '{argument}' .*Received: "):
        MLP(**{"output_dims": [8, 5, 3], argument: value})


def test_the_length_error_says_both_lengths():
    with pytest.raises(ValueError, match=r"per layer \(3\)\. Received: 2 entries") as error:
        MLP([8, 5, 3], activations=["relu", "tanh"])
    assert "['relu', 'tanh']" in str(error.value)


def test_unknown_arguments_are_refused():
    with pytest.raises((TypeError, ValueError), match="use_biass"):
        MLP([8, 3], use_biass=True)
