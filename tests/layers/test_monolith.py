# SPDX-License-Identifier: Apache-2.0
"""`monolith.load_weights`: a checkpoint's variables into a layer, all of them or none.

That the right array reaches the right weight is what `tests/parity` shows, by the outputs.
"""

import re

import keras
import numpy as np
import pytest

from mlayers import layers, monolith
from support import parity
from support.frameworks import to_numpy

RNG = np.random.default_rng(5)
SHAPES = {
    "mlp/dense_0/kernel": (7, 4),
    "mlp/dense_0/trainable_kernel_norm": (4,),
    "mlp/dense_0/bias": (4,),
    "mlp/dense_1/kernel": (4, 2),
    "mlp/dense_1/trainable_kernel_norm": (2,),
    "mlp/dense_1/bias": (2,),
}


@pytest.fixture
def layer():
    mlp = layers.MLP([4, 2])
    mlp.build((None, 7))
    return mlp


def variables(suffix=""):
    return {
        name + suffix: RNG.uniform(0.1, 1, shape).astype("float32")
        for name, shape in SHAPES.items()
    }


def check_loaded(layer, arrays):
    """Every weight holds the array of its name."""
    assert len(layer.weights) == len(arrays)
    loaded = {name.removesuffix(":0"): array for name, array in arrays.items()}
    for weight in layer.weights:
        name = "mlp/" + "/".join(weight.path.split("/")[-2:])
        np.testing.assert_array_equal(to_numpy(weight.value), loaded[name])


@pytest.mark.parametrize("suffix", [":0", ""])
def test_names_with_and_without_the_output_index(layer, suffix):
    arrays = variables(suffix)
    monolith.load_weights(layer, arrays)
    check_loaded(layer, arrays)


@pytest.mark.parametrize("scope", ["", "model/tower/", "mlp_3/"])
def test_the_scope_in_front_may_be_any(layer, scope):
    arrays = variables(":0")
    renamed = {scope + name.removeprefix("mlp/"): array for name, array in arrays.items()}
    monolith.load_weights(layer, renamed)
    check_loaded(layer, arrays)


def test_the_caller_keeps_its_dict(layer):
    arrays = variables(":0")
    names = list(arrays)
    monolith.load_weights(layer, arrays)
    assert list(arrays) == names


def refused(layer, arrays, *words):
    """One ValueError with all the words in it, and no weight touched."""
    before = layer.get_weights()
    with pytest.raises(ValueError, match=r"load_weights") as error:
        monolith.load_weights(layer, arrays)
    for word in words:
        assert re.search(word, str(error.value)), (word, str(error.value))
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_missing_names_are_all_listed(layer):
    arrays = variables(":0")
    del arrays["mlp/dense_0/bias:0"], arrays["mlp/dense_1/kernel:0"]
    refused(layer, arrays, "missing", r"dense_0/bias", r"dense_1/kernel")


def test_unused_names_are_all_listed(layer):
    arrays = variables(":0")
    arrays["mlp/dense_2/kernel:0"] = np.ones((2, 2), "float32")
    arrays["mlp/dense_0/kernel/Adam:0"] = np.ones((7, 4), "float32")
    refused(layer, arrays, "unused|not used", r"dense_2/kernel", r"dense_0/kernel/Adam")


def test_wrong_shapes_are_all_listed(layer):
    arrays = variables(":0")
    arrays["mlp/dense_0/kernel:0"] = np.ones((7, 5), "float32")
    arrays["mlp/dense_1/bias:0"] = np.ones((2, 1), "float32")
    refused(layer, arrays, "shape", r"\(7, 4\)", r"\(7, 5\)", r"\(2,\)", r"\(2, 1\)")


def test_everything_wrong_is_one_error(layer):
    arrays = variables(":0")
    del arrays["mlp/dense_0/bias:0"]
    arrays["mlp/other:0"] = np.ones(3, "float32")
    arrays["mlp/dense_1/kernel:0"] = np.ones((2, 4), "float32")
    refused(layer, arrays, r"dense_0/bias", r"mlp/other", r"dense_1/kernel.*\(2, 4\)")


def test_the_same_variable_twice_is_refused(layer):
    arrays = {**variables(":0"), **variables("")}
    with pytest.raises(ValueError, match="load_weights"):
        monolith.load_weights(layer, arrays)


def test_an_unbuilt_layer_is_refused():
    with pytest.raises(ValueError, match=r"load_weights.*built"):
        monolith.load_weights(layers.MLP([4, 2]), variables())


@pytest.mark.parametrize("target", [keras.layers.Dense(2), "mlp", None], ids=str)
def test_other_layers_are_refused(target):
    with pytest.raises(TypeError, match=r"load_weights.*Received"):
        monolith.load_weights(target, {})


LAYERS = {
    "dense": layers.Dense,
    "mlp": layers.MLP,
    "lhuc": layers.LHUCTower,
    "group_int": layers.GroupInt,
}
EVERY_PART = {  # between them: every kind of variable that a checkpoint has
    "dense-norm1_trainable1_bias1_actNone",
    "mlp-bn",
    "lhuc-act_prelu",
    "lhuc-bn_renorm",
    "group_int-attention_B5_L3_R2_D4",
}


@pytest.mark.parametrize("case", [c for c in parity.cases(*LAYERS) if c.id in EVERY_PART])
def test_every_variable_of_the_original_is_needed(case):
    """Dropping any one name is noticed, by that name; with all of them the layer is filled."""
    layer = LAYERS[case.group](**case.arguments)
    shapes = [x.shape for x in case.series("x")]
    if case.group == "group_int":
        count = case.facts["left_fields"]
        shapes = [shapes[:count], shapes[count:]]
    layer.build(shapes[0] if len(shapes) == 1 else shapes)
    weights = case.weights()
    for name in weights:
        rest = {other: array for other, array in weights.items() if other != name}
        path = name.removesuffix(":0").split("/", 1)[1]
        path = re.sub(r"p_re_lu_\d+", "p_re_lu", path)  # TensorFlow counts these over all layers
        refused(layer, rest, "missing", re.escape(path))
    monolith.load_weights(layer, weights)
    assert len(weights) == len(layer.weights)
