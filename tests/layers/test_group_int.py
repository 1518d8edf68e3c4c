# SPDX-License-Identifier: Apache-2.0
"""GroupInt: which interaction lands where, output types, attention, errors, `check_layer`."""

from functools import partial

import keras
import numpy as np
import pytest

from mlayers.layers import GroupInt
from support.check_layer import CHECKS, SLOW_CHECKS, check_layer, shapes_of, tensors_of
from support.frameworks import to_numpy

RNG = np.random.default_rng(4)
LEFT = [RNG.normal(size=(5, 4)).astype("float32") for _ in range(3)]
RIGHT = [RNG.normal(size=(5, 4)).astype("float32") for _ in range(2)]
FIELDS = (LEFT, RIGHT)

RICH = {
    "use_attention": True,
    "attention_units": [6, 1],
    "activation": "tanh",
    "initializer": keras.initializers.HeNormal(),
    "regularizer": keras.regularizers.L2(0.05),
    "out_type": "stack",
}
CASES = {
    "rich": RICH,
    "default": {},
    "dot": {"interaction_type": "dot"},
    "attention_list": {**RICH, "out_type": None},
    "keep_list": {"keep_list": True},
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", CASES)
def test_is_a_good_keras_layer(case, check):
    check_layer(check, partial(GroupInt, **CASES[case]), FIELDS)


@pytest.mark.parametrize("check", SLOW_CHECKS)
def test_is_a_good_keras_layer_compiled(check):
    check_layer(check, partial(GroupInt, **RICH), FIELDS)


def call(layer, fields=FIELDS):
    return to_numpy(layer(tensors_of(fields)))


PRODUCTS = np.stack([left * right for left in LEFT for right in RIGHT], axis=1)


def test_multiply_concat():
    np.testing.assert_allclose(call(GroupInt()), PRODUCTS.reshape(5, -1), rtol=1e-6)


def test_multiply_stack():
    np.testing.assert_allclose(call(GroupInt(out_type="stack")), PRODUCTS, rtol=1e-6)


def test_multiply_list():
    found = call(GroupInt(out_type=None))
    assert isinstance(found, list)
    assert len(found) == 6
    for index, one in enumerate(found):
        np.testing.assert_allclose(one, PRODUCTS[:, index], rtol=1e-6)


def test_dot():
    found = call(GroupInt(interaction_type="dot"))
    np.testing.assert_allclose(found, PRODUCTS.sum(-1), rtol=1e-4, atol=1e-6)


def test_keep_list_wraps_the_output():
    (found,) = call(GroupInt(keep_list=True))
    np.testing.assert_allclose(found, PRODUCTS.reshape(5, -1), rtol=1e-6)


def test_tuples_of_fields_are_lists_of_fields():
    layer = GroupInt()
    np.testing.assert_array_equal(call(layer, [tuple(LEFT), tuple(RIGHT)]), call(layer))


def test_one_field_on_a_side():
    found = call(GroupInt(), (LEFT, RIGHT[:1]))
    expected = np.concatenate([left * RIGHT[0] for left in LEFT], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_attention_weighs_each_interaction_by_one_number():
    layer = GroupInt(**RICH)
    ratio = call(layer) / PRODUCTS
    np.testing.assert_allclose(ratio, ratio[..., :1].repeat(4, axis=-1), rtol=1e-4)
    assert ratio[..., 0].std() > 1e-3
    assert len(layer.losses) == 2  # the regularizer, on both kernels of the attention


def test_without_attention_there_are_no_weights():
    layer = GroupInt(attention_units=[6, 1])
    layer.build(shapes_of(FIELDS))
    assert layer.weights == []


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("interaction_type", "add"),
        ("interaction_type", None),
        ("interaction_type", "Multiply"),
        ("out_type", "list"),
        ("out_type", 3),
        ("attention_units", [6, 2]),
        ("attention_units", []),
        ("attention_units", None),
        ("attention_units", 1),
        ("attention_units", [0, 1]),
        ("initializer", "no such initializer"),
        ("regularizer", "no such regularizer"),
        ("use_attention", "yes"),
        ("keep_list", 1),
    ],
)
def test_constructor_refuses(argument, value):
    options = {"use_attention": True, "attention_units": [6, 1], argument: value}
    with pytest.raises(ValueError, match=f"^GroupInt: '{argument}' .*Received: "):
        GroupInt(**options)


def test_attention_needs_multiply():
    with pytest.raises(ValueError, match=r"^GroupInt: 'use_attention' .*multiply.*Received: "):
        GroupInt("dot", use_attention=True, attention_units=[1])


@pytest.mark.parametrize(
    "fields",
    [
        (LEFT, [field[:, :3] for field in RIGHT]),
        ([LEFT[0], LEFT[1][:, :2]], RIGHT),
        (LEFT, []),
        ([], RIGHT),
        (LEFT, [field[:2] for field in RIGHT]),
        (LEFT, [field[:, None] for field in RIGHT]),
        (LEFT, RIGHT, RIGHT),
        (LEFT,),
    ],
    ids=["widths", "widths_on_one_side", "no_right", "no_left", "batch", "rank", "three", "one"],
)
def test_call_refuses(fields):
    with pytest.raises(ValueError, match=r"GroupInt: .*Received: "):
        GroupInt()(tensors_of(fields))


def test_field_widths_are_checked_on_symbolic_inputs_too():
    fields = ([keras.Input((4,))], [keras.Input((5,))])
    with pytest.raises(ValueError, match=r"GroupInt: .*Received: "):
        GroupInt()(fields)
