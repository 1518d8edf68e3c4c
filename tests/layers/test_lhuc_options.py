# SPDX-License-Identifier: Apache-2.0
"""LHUCTower as PPNet and PEPNet have it: each option of the gates against NumPy's formula."""

import json
from functools import partial

import numpy as np
import pytest

from mlayers import monolith
from mlayers.layers import LHUCTower, fold_weight_norm
from support.check_layer import CHECKS, SLOW_CHECKS, check_layer, tensors_of
from support.check_model import functional
from support.frameworks import to_numpy
from support.towers import TANH, make, sigmoid

RNG = np.random.default_rng(9)
X = RNG.normal(size=(6, 7)).astype("float32")
GATE = RNG.normal(size=(6, 4)).astype("float32")

PPNET = {"gate_last": False, "stop_gradient": True}
PEPNET = {"gate_on": "input", "stop_gradient": True}
CASES = {
    "ppnet": ({**TANH, "lhuc_output_dims": [6], **PPNET}, (X, GATE)),
    "pepnet": ({**TANH, "lhuc_output_dims": [6], "lhuc_use_weight_norm": False, **PEPNET}, X),
    "all": (
        {
            **TANH,
            "lhuc_output_dims": [[6, 7]],
            "enable_batch_normalization": True,
            "gate_scale": 3.0,
            "gate_on": "input",
            "identity_start": True,
            **PPNET,
        },
        (X, GATE),
    ),
}
DROPOUT = {**CASES["all"][0], "gate_dropout": 0.4}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", CASES)
def test_is_a_good_keras_layer(case, check):
    options, inputs = CASES[case]
    check_layer(check, partial(LHUCTower, **options), inputs)


@pytest.mark.parametrize("check", SLOW_CHECKS)
def test_is_a_good_keras_layer_compiled(check):
    options, inputs = CASES["all"]
    moving = {**options, "identity_start": False}  # or the gates' first layers wait for the last
    check_layer(check, partial(LHUCTower, **moving), inputs)


# The state of the random numbers is no weight of the layer, which the other checks take it for.
@pytest.mark.parametrize(
    "check",
    [
        "config_round_trips",
        "symbolic_calls_agree_with_eager_ones",
        "any_batch_size_will_do",
        "saved_functional_model_predicts_the_same",
        "saved_subclassed_model_predicts_the_same",
        "exported_model_predicts_the_same",
    ],
)
def test_is_a_good_keras_layer_with_dropout(check):
    check_layer(check, partial(LHUCTower, **DROPOUT), (X, GATE))


def values(layer, part):
    """Kernels and biases below a part of the path, in turn."""
    return [to_numpy(weight.value) for weight in layer.weights if part in weight.path]


def expected(layer, x, gate_input, scale, on, last):
    """What a tower without weight norm computes, and its gates, in float64."""
    h, gates = x.astype("float64"), []
    for i in range(layer.n_layers):
        gate = np.ones(1)
        if last or i < layer.n_layers - 1:
            gate = gate_input.astype("float64")
            kernels = values(layer, f"layer_{i + 1}/lhuc/")
            for number in range(0, len(kernels), 2):
                gate = np.maximum(gate, 0) if number else gate
                gate = gate @ kernels[number] + kernels[number + 1]
            gate = scale * sigmoid(gate)
            gates.append(gate)
        kernel, bias = values(layer, f"layer_{i + 1}/dense/")
        h = (h * gate if on == "input" else h) @ kernel + bias
        h = np.tanh(h) if i < layer.n_layers - 1 else h
        h = h * gate if on == "output" else h
    return h, gates


@pytest.mark.parametrize("inputs", [X, (X, GATE)], ids=["one", "pair"])
@pytest.mark.parametrize("stop", [False, True], ids=["fed", "stopped"])
@pytest.mark.parametrize("last", [False, True], ids=["but_last", "all"])
@pytest.mark.parametrize("on", ["input", "output"])
@pytest.mark.parametrize("scale", [2.0, 0.7, 5.0])
def test_formula(inputs, scale, on, last, stop):
    options = {"gate_scale": scale, "gate_on": on, "gate_last": last, "stop_gradient": stop}
    layer = make(
        inputs, output_dims=[5, 4, 3], lhuc_output_dims=[6], use_weight_norm=False, **options
    )
    gate_input = X if inputs is X else GATE
    if stop and inputs is not X:
        gate_input = np.concatenate([GATE, X], axis=1)
    outputs, gates = expected(layer, X, gate_input, scale, on, last)
    assert len(gates) == (3 if last else 2)
    np.testing.assert_allclose(to_numpy(layer(tensors_of(inputs))), outputs, rtol=1e-4, atol=1e-5)
    for given in (inputs, gate_input):  # what the tower takes, or what feeds the gates
        found = to_numpy(layer.gates(given))
        assert len(found) == len(gates)
        for one, other in zip(found, gates, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_defaults_are_what_was_there_before():
    plain, explicit = (
        make((X, GATE), **options)
        for options in (
            {},
            {
                "gate_scale": 2,
                "gate_on": "output",
                "gate_last": True,
                "stop_gradient": False,
                "identity_start": False,
                "gate_dropout": 0,
            },
        )
    )
    assert [w.path.split("/", 1)[1] for w in plain.weights] == [
        f"layer_{i}/{part}/{name}"
        for i in (1, 2)
        for part in ("dense", "lhuc/dense_0")
        for name in ("kernel", "trainable_kernel_norm", "bias")
    ]
    config = {**explicit.get_config(), "name": plain.name}
    assert config == plain.get_config()


# --- how wide the gates are ---


@pytest.mark.parametrize(
    ("given", "gates"),
    [
        (None, [[7], [5], [4]]),
        ([], [[7], [5], [4]]),
        ([10, 6], [[10, 6, 7], [10, 6, 5], [10, 6, 4]]),
        ([[8, 7], [5], [6, 4]], [[8, 7], [5], [6, 4]]),
        ([[8, None], [None], (6, None)], [[8, 7], [5], [6, 4]]),
    ],
)
@pytest.mark.parametrize("last", [False, True], ids=["but_last", "all"])
def test_gates_on_the_input_are_as_wide_as_it(given, gates, last):
    if not last:
        gates = gates[:2]
        given = given[:2] if given and isinstance(given[0], list) else given
    layer = LHUCTower([5, 4, 3], given, gate_on="input", gate_last=last)
    config = layer.get_config()
    layer = LHUCTower.from_config(json.loads(json.dumps(config)))
    layer.build(X.shape)
    assert layer.get_config() == config
    found = [
        [w.shape[1] for w in layer.weights if f"layer_{i}/lhuc" in w.path and w.name == "kernel"]
        for i in (1, 2, 3)
    ]
    assert found == (gates if last else [*gates, []])


@pytest.mark.parametrize("given", [[[7], [4]], [[7], [5], [5]], [[7], []], [[7], [0, 5]], [[7], 5]])
def test_widths_that_are_wrong_on_the_input(given):
    with pytest.raises(ValueError, match=r"^LHUCTower: 'lhuc_output_dims(\[1\])?' .*Received: "):
        LHUCTower([5, 3], given, gate_on="input")


def test_the_width_of_the_input_is_checked_when_it_is_known():
    layer = LHUCTower([5, 3], [[6], [5]], gate_on="input")
    rule = r"^LHUCTower: 'lhuc_output_dims\[0\]' must end in inputs.shape\[-1\]=7. Received: \[6\]"
    with pytest.raises(ValueError, match=rule):
        layer.build(X.shape)


def test_an_ungated_layer_has_no_widths():
    assert LHUCTower([5, 3], [[5]], gate_last=False).lhuc_output_dims == [[5]]
    with pytest.raises(ValueError, match=r"'lhuc_output_dims' must have .*gated layer \(1\)"):
        LHUCTower([5, 3], [[5], [3]], gate_last=False)


def test_trains_with_dropout():
    model = functional(LHUCTower(**DROPOUT), (X, GATE))
    model.compile("sgd", "mse")
    assert np.isfinite(model.fit([X, GATE], X[:, :3], epochs=2, verbose=0).history["loss"]).all()


# --- gates() ---


def test_gates_refuses_other_inputs():
    with pytest.raises(ValueError, match=r"^LHUCTower.gates: .*must be built.*Received"):
        LHUCTower([5, 3]).gates(X)
    layer = make((X, GATE))
    for inputs in (X, (GATE, GATE), [X], (X, GATE[:3])):
        with pytest.raises(ValueError, match=r"LHUCTower.*Received"):
            layer.gates(inputs)


# --- what else takes a tower ---


@pytest.mark.parametrize("case", CASES)
def test_folds(case):
    options, inputs = CASES[case]
    layer = make(inputs, **{**options, "gate_dropout": 0.3})
    copy = fold_weight_norm(layer)
    assert not [w.path for w in copy.weights if "norm" in w.name]
    for name in ("gate_scale", "gate_on", "gate_last", "stop_gradient", "identity_start"):
        assert copy.get_config()[name] == layer.get_config()[name]
    expected = to_numpy(layer(tensors_of(inputs)))
    np.testing.assert_allclose(to_numpy(copy(tensors_of(inputs))), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_takes_a_monolith_checkpoint(case):
    options, inputs = CASES[case]
    source, target = (make(inputs, **{**options, "gate_dropout": 0.3}) for _ in range(2))
    arrays = {name: to_numpy(v.value) + 0.1 for name, v in monolith._variables(source).items()}
    monolith.load_weights(target, {f"tower/lhuc_tower/{k}:0": v for k, v in arrays.items()})
    assert len(arrays) == len(source.weights)
    for weight, other in zip(target.weights, source.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(weight.value), to_numpy(other.value) + 0.1)


def test_params_has_the_options():
    template = LHUCTower.params()
    assert (template.gate_scale, template.gate_on, template.gate_last) == (2.0, "output", True)
    template.set(output_dims=[5, 3], **PEPNET, gate_dropout=0.1, identity_start=True)
    config = template.instantiate().get_config()
    assert config.items() >= {**PEPNET, "gate_dropout": 0.1, "identity_start": True}.items()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("gate_scale", value) for value in (0, -2.0, np.inf, np.nan, "2", None, True)),
        *(("gate_on", value) for value in ("both", None, True)),
        *(("gate_last", value) for value in ("no", 1)),
        *(("stop_gradient", value) for value in ("no", 1)),
        *(("identity_start", value) for value in ("no", 1)),
        *(("gate_dropout", value) for value in (-0.1, 1.0, 1.5, None, "0.1", True)),
    ],
)
def test_constructor_refuses(argument, value):
    with pytest.raises(ValueError, match=rf"^LHUCTower: '{argument}' must .*Received: "):
        LHUCTower([5, 3], **{argument: value})


def test_a_tower_without_any_gate_is_refused():
    with pytest.raises(ValueError, match=r"^LHUCTower: 'gate_last' must .*Received: False"):
        LHUCTower([3], gate_last=False)
