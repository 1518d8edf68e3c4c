# SPDX-License-Identifier: Apache-2.0
"""The two models: inputs, sizes, and what the gates are read from."""

import keras
import numpy as np
import pandas as pd
import pytest

from mlayers.train.encoder import fit_encoder
from mlayers.train.model import gate_values, gated_model, plain_model, tower_parameters, widths_for
from mlayers.train.plots import draw_gates, mean_gates

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "user": RNG.integers(9, size=50),
        "item": RNG.integers(7, size=50),
        "price": RNG.normal(size=50),
        "page": RNG.choice(["a", "b"], size=50),
    }
)
GROUPS = {
    "all kinds": (["user"], ["item", "price"], ["page"]),
    "two gates": (["user"], ["item"], ["page", "price"]),
    "categories only": (["user"], ["item"], ["user"]),
    "floats only": (["price"], ["price2"], ["price2"]),
}


@pytest.fixture(params=GROUPS.values(), ids=GROUPS.keys())
def fitted(request):
    table = TABLE.assign(price2=TABLE["price"] ** 2)
    encoder = fit_encoder(table, *request.param)
    return encoder, encoder.encode(table)


def test_both_models_predict_probabilities(fitted):
    encoder, inputs = fitted
    for model in (gated_model(encoder, 4, [6, 3]), plain_model(encoder, 4, [6, 3])):
        clicks_b1 = model.predict(inputs, verbose=0)
        assert clicks_b1.shape == (50, 1)
        assert ((clicks_b1 > 0) & (clicks_b1 < 1)).all()


def test_gates_are_what_the_tower_multiplies_by(fitted):
    encoder, inputs = fitted
    model = gated_model(encoder, 4, [6, 3])
    gates = gate_values(model, inputs)
    assert [gates_bu.shape for gates_bu in gates] == [(50, 6), (50, 3)]
    assert all(((gates_bu > 0) & (gates_bu < 2)).all() for gates_bu in gates)
    tower = model.get_layer("lhuc_tower")
    hidden_bu = keras.Model(model.inputs, tower.output).predict(inputs, verbose=0)
    for weight in tower.weights:
        if "layer_2/lhuc" in weight.path:
            weight.assign(np.zeros(weight.shape))  # 2 · sigmoid(0) = 1
    ungated_bu = keras.Model(model.inputs, tower.output).predict(inputs, verbose=0)
    np.testing.assert_allclose(hidden_bu, ungated_bu * gates[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", [[32, 16], [64], [8, 8, 8]])
def test_the_plain_model_is_as_large(hidden):
    encoder = fit_encoder(TABLE, ["user"], ["item", "price"], ["page"])
    gated = gated_model(encoder, 16, hidden)
    inputs = gated.get_layer("tower_input").output.shape[-1]
    widths = widths_for(tower_parameters(gated), inputs, hidden)
    plain = plain_model(encoder, 16, widths)
    assert plain.count_params() == pytest.approx(gated.count_params(), rel=0.03)
    assert widths[0] > hidden[0]  # what the gates cost, the plain model spends on width


def test_mean_gates_of_categories_and_of_quarters_of_floats():
    gates_bu = np.array([[0.0, 2.0], [1.0, 2.0], [2.0, 0.0], [2.0, 1.0]])
    of_text = mean_gates(pd.Series(["b", "b", "a", None], name="city", dtype="string"), gates_bu)
    assert of_text.index.tolist() == ["(missing)", "a", "b"]
    np.testing.assert_allclose(of_text.loc["b"], [0.5, 2.0])
    of_floats = mean_gates(pd.Series([1.5, 2.5, 3.5, 4.5], name="price"), gates_bu)
    np.testing.assert_allclose(of_floats, gates_bu)
    of_ids = mean_gates(pd.Series([10, 9, 9, 10], name="user"), gates_bu)
    assert of_ids.index.tolist() == ["9", "10"]
    constant = mean_gates(pd.Series([1.5] * 4, name="price"), gates_bu)
    np.testing.assert_allclose(constant, [[1.25, 1.25]])
    assert constant.index.tolist() == ["1.5"]
    gaps = mean_gates(pd.Series([1.5, None, 1.5, None], name="price"), gates_bu)
    np.testing.assert_allclose(gaps, [[1.0, 1.0], [1.5, 1.5]])
    assert gaps.index.tolist() == ["1.5", "(missing)"]


def test_gates_are_drawn_where_a_gate_column_has_no_value(tmp_path):
    encoder = fit_encoder(TABLE, ["user"], ["item"], ["page", "price"])
    rows = TABLE.assign(price=pd.array([None] * len(TABLE), "Float64"))
    draw_gates(encoder, rows, [RNG.uniform(0, 2, (len(TABLE), 3))], tmp_path / "gates.png")
    assert (tmp_path / "gates.png").stat().st_size
