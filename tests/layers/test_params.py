# SPDX-License-Identifier: Apache-2.0
"""`params()`: a template whose attributes are the constructor's arguments, as Monolith has it."""

import inspect

import pytest

from mlayers import layers

CLASSES = {
    layers.Dense: {"units": 4},
    layers.MLP: {"output_dims": [4, 2]},
    layers.LHUCTower: {"output_dims": [4, 2]},
    layers.GroupInt: {},
}


def defaults(cls):
    """The constructor's own arguments and their defaults."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.name != "self" and p.kind is not inspect.Parameter.VAR_KEYWORD
    }


@pytest.mark.parametrize("cls", CLASSES)
def test_attributes_are_the_constructors_arguments_with_their_defaults(cls):
    template = cls.params()
    for name, default in defaults(cls).items():
        expected = None if default is inspect.Parameter.empty else default
        assert getattr(template, name) == expected, name


@pytest.mark.parametrize("cls", CLASSES)
def test_instantiate_makes_a_layer_from_what_was_set(cls):
    template = cls.params()
    for name, value in CLASSES[cls].items():
        setattr(template, name, value)
    template.name = "from_template"
    layer, other = template.instantiate(), template.instantiate()
    assert type(layer) is cls
    assert layer is not other
    assert layer.name == "from_template"
    assert layer.get_config() == cls(**CLASSES[cls], name="from_template").get_config()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_copy_is_independent(cls):
    template = cls.params()
    template.name = "first"
    copy = template.copy()
    assert copy.name == "first"
    copy.name = "second"
    assert template.name == "first"
    assert cls.params().name not in ("first", "second")


def test_a_copy_does_not_share_lists():
    template = layers.MLP.params()
    template.output_dims = [4, 2]
    copy = template.copy()
    copy.output_dims.append(1)
    assert template.output_dims == [4, 2]


def test_instantiate_checks_as_the_constructor_does():
    template = layers.MLP.params()
    template.output_dims = [4, 0]
    with pytest.raises(ValueError, match=r"^MLP: 'output_dims' "):
        template.instantiate()


def test_a_missing_argument_is_an_error():
    with pytest.raises((TypeError, ValueError), match=r"output_dims"):
        layers.LHUCTower.params().instantiate()


@pytest.mark.parametrize("cls", CLASSES)
def test_unknown_attributes_are_refused(cls):
    template = cls.params()
    with pytest.raises(AttributeError, match="no_such_argument"):
        template.no_such_argument = 1
    with pytest.raises(AttributeError, match="no_such_argument"):
        _ = template.no_such_argument


def test_gate_options_can_be_set_on_a_tower():
    template = layers.LHUCTower.params()
    template.output_dims = [4, 2]
    template.lhuc_use_bias = False
    assert template.instantiate().lhuc_params("use_bias") is False
