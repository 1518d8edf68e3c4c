# SPDX-License-Identifier: Apache-2.0
"""The layers against the original: every case of Dense, MLP, LHUCTower and GroupInt.

The original's weights come in through `monolith.load_weights`; a gradient is then found by its
variable's name in the checkpoint. Values, gradients and batch-norm updates are asked of
`stateless_call`, one pure function on every backend.

Compiling a whole tower with its gradient takes seconds, so a few cases that between them have
every part are compiled (COMPILED), with torch fewer still.
"""

import keras
import numpy as np
import pytest

from mlayers import layers, monolith
from support import parity
from support.frameworks import BACKEND, to_numpy, value_and_grads

LAYERS = {
    "dense": layers.Dense,
    "mlp": layers.MLP,
    "lhuc": layers.LHUCTower,
    "group_int": layers.GroupInt,
}
CASES = parity.cases(*LAYERS)
WITH_BATCH_NORM = [case for case in CASES if "train" in case.values[0].facts["modes"]]
WITH_LOSSES = [case for case in CASES if "losses" in case.values[0].facts]
TRAINING = {"default": {}, "infer": {"training": False}, "train": {"training": True}}

COMPILED_WITH_TORCH = {
    "dense-norm1_trainable1_bias1_actsigmoid",
    "lhuc-reg",
    "group_int-attention_B5_L3_R2_D4",
}
COMPILED = COMPILED_WITH_TORCH | {
    "dense-input3d_trainable1",
    "dense-tiny_columns_trainable0",
    "mlp-bn_renorm_clip",
    "mlp-act_gelu",
    "lhuc-bn_renorm",
    "lhuc-act_prelu",
    "lhuc-two_inputs_dims",
    "group_int-dot_B4_L5_R3_D10",
}


class Loaded:
    """A layer with a case's weights, as a pure function of inputs and trainable weights."""

    def __init__(self, case):
        self.case = case
        self.layer = LAYERS[case.group](**case.arguments)
        self.inputs = case.series("x")
        self.layer.build(keras.tree.map_structure(lambda x: x.shape, self.nest(self.inputs)))
        monolith.load_weights(self.layer, case.weights())
        self.trainable = [to_numpy(variable.value) for variable in self.layer.trainable_variables]
        self.state = [variable.value for variable in self.layer.non_trainable_variables]

    def nest(self, flat):
        """Flat inputs as the layer takes them."""
        if self.case.group == "group_int":
            count = self.case.facts["left_fields"]
            return list(flat[:count]), list(flat[count:])
        return flat[0] if len(flat) == 1 else tuple(flat)

    def call(self, flat_inputs, weights, mode="default", **kwargs):
        """`stateless_call` with the given inputs and trainable weights."""
        inputs = self.nest([keras.ops.convert_to_tensor(x) for x in flat_inputs])
        return self.layer.stateless_call(
            list(weights), self.state, inputs, **TRAINING[mode], **kwargs
        )

    def output(self, *tensors, mode):
        """The output as one tensor, from inputs and weights in a row."""
        split = len(self.inputs)
        y, _ = self.call(tensors[:split], tensors[split:], mode)
        return y[0] if isinstance(y, list) else y

    def by_name(self, values, variables):
        """Values in the order of `variables`, by the original's variable names.

        A variable is recognised by the array it was loaded with; no two of a case are equal.
        """
        named = {}
        for name, loaded in self.case.weights().items():
            positions = [
                position
                for position, variable in enumerate(variables)
                if tuple(variable.shape) == loaded.shape
                and np.array_equal(to_numpy(variable.value), loaded)
            ]
            if positions:
                (position,) = positions
                named[name] = values[position]
        assert len(named) == len(variables)
        return named


def check_named(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, **parity.TOLERANCE, err_msg=name)


def check_outputs_and_gradients(case, compiled):
    loaded = Loaded(case)
    for mode in case.facts["modes"]:
        y, grads = value_and_grads(
            lambda *tensors, mode=mode: loaded.output(*tensors, mode=mode),
            [*loaded.inputs, *loaded.trainable],
            case["upstream"],
            compiled=compiled,
        )
        np.testing.assert_allclose(y, case[f"{mode}/y"], **parity.TOLERANCE, err_msg=mode)
        of_inputs, of_weights = grads[: len(loaded.inputs)], grads[len(loaded.inputs) :]
        expected_of_inputs = case.series(f"{mode}/gx")
        assert len(expected_of_inputs) == len(of_inputs)
        for grad, expected in zip(of_inputs, expected_of_inputs, strict=True):
            np.testing.assert_allclose(grad, expected, **parity.TOLERANCE, err_msg=mode)
        check_named(
            loaded.by_name(of_weights, loaded.layer.trainable_variables),
            case.of_weights(f"{mode}/g{{}}"),
        )


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients(case):
    check_outputs_and_gradients(case, compiled=False)


@pytest.mark.parametrize("case", [case for case in CASES if case.id in COMPILED])
def test_outputs_and_gradients_compiled(case):
    if BACKEND == "torch" and repr(case) not in COMPILED_WITH_TORCH:
        pytest.skip("torch.compile takes many seconds per layer: three cases are compiled")
    check_outputs_and_gradients(case, compiled=True)


def test_the_list_of_compiled_cases_is_spelled_right():
    assert {case.id for case in CASES} >= COMPILED


@pytest.mark.parametrize("case", CASES)
def test_called_with_its_own_variables(case):
    loaded = Loaded(case)
    y = to_numpy(loaded.layer(loaded.nest(loaded.inputs)))
    assert isinstance(y, list) == case.facts.get("list", False)
    y = y[0] if isinstance(y, list) else y
    np.testing.assert_allclose(y, case["default/y"], **parity.TOLERANCE)


@pytest.mark.parametrize("case", WITH_BATCH_NORM)
def test_batch_norm_statistics_after_one_update(case):
    expected = case.of_weights("train/{}_after_update")
    loaded = Loaded(case)
    variables = loaded.layer.non_trainable_variables
    assert len(expected) == len(variables) > 0
    _, updates = loaded.call(loaded.inputs, loaded.trainable, "train")
    check_named(loaded.by_name(to_numpy(updates), variables), expected)

    names = loaded.by_name(variables, variables)
    loaded.layer(loaded.nest(loaded.inputs), training=True)
    check_named({name: to_numpy(variable.value) for name, variable in names.items()}, expected)


@pytest.mark.parametrize("mode", ["default", "infer"])
@pytest.mark.parametrize("case", WITH_BATCH_NORM)
def test_batch_norm_statistics_stay_in_inference(case, mode):
    loaded = Loaded(case)
    loaded.layer(loaded.nest(loaded.inputs), **TRAINING[mode])
    for variable, before in zip(loaded.layer.non_trainable_variables, loaded.state, strict=True):
        np.testing.assert_array_equal(to_numpy(variable.value), to_numpy(before))


@pytest.mark.parametrize("case", WITH_LOSSES)
def test_regularisation_losses(case):
    loaded = Loaded(case)
    loaded.layer(loaded.nest(loaded.inputs))
    found = sorted(float(loss) for loss in loaded.layer.losses)
    np.testing.assert_allclose(found, sorted(case.facts["losses"]), **parity.TOLERANCE)


@pytest.mark.parametrize("case", WITH_LOSSES)
def test_regularisation_gradients(case):
    loaded = Loaded(case)

    def total(*weights):
        _, _, losses = loaded.call(loaded.inputs, weights, return_losses=True)
        return sum(losses[1:], losses[0])

    value, grads = value_and_grads(total, loaded.trainable, np.ones((), "float32"))
    np.testing.assert_allclose(value, sum(case.facts["losses"]), **parity.TOLERANCE)
    found = loaded.by_name(grads, loaded.layer.trainable_variables)
    expected = case.of_weights("reg_g{}")
    check_named({name: found[name] for name in expected}, expected)
    for name in found.keys() - expected.keys():  # kernel norms are not regularised
        np.testing.assert_array_equal(found[name], 0, err_msg=name)


def test_no_group_is_forgotten():
    assert set(parity.groups()) == {"ffm", "feature_insight", "fid_counter", "activations", *LAYERS}
