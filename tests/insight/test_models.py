# SPDX-License-Identifier: Apache-2.0
"""A report on a model is the one on its layer; a trained model's report finds what matters."""

import warnings

import keras
import numpy as np
import pytest

from mlayers.insight import feature_insight_report
from mlayers.layers import MLP, Dense, GroupInt, LHUCTower
from support.check_model import OneLayerModel, shake_weights

RNG = np.random.default_rng(6)
NAMES, SIZES = ["user", "item", "price"], [4, 4, 1]
IDS = RNG.integers(0, 10, size=(31, 2))
PRICE = RNG.normal(size=(31, 1)).astype("float32")
LABEL = RNG.integers(0, 2, size=31)


def fields(prefix=""):
    """Inputs of a model, and their vectors side by side."""
    ids = keras.Input((2,), dtype="int32", name=f"{prefix}ids")
    price = keras.Input((1,), name=f"{prefix}price")
    vectors = keras.layers.Flatten()(keras.layers.Embedding(10, 4)(ids))
    return (ids, price), keras.layers.Concatenate()([vectors, price])


STACKS = {
    "dense": lambda: Dense(3, allow_kernel_norm=True),
    "keras dense": lambda: keras.layers.Dense(1),
    "mlp": lambda: MLP([5, 1], enable_batch_normalization=True),
    "tower": lambda: LHUCTower([5, 1]),
}


def agree(found, expected):
    assert found.layer == expected.layer
    assert found.n_examples == expected.n_examples
    for one, other in zip(found.rows, expected.rows, strict=True):
        assert one.name == other.name
        for column in ("mean", "mean_abs", "share", "correlation"):
            assert getattr(one, column) == pytest.approx(getattr(other, column), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("structure", [list, tuple, dict])
@pytest.mark.parametrize("kind", STACKS)
def test_model_and_layer_agree(kind, structure):
    (ids, price), stacked = fields()
    layer = STACKS[kind]()
    # Not the first dense layer of the model, but the first of that width; of a tower, not the gate.
    other = keras.layers.Dense(4, activation="relu")(price)
    hidden = layer((stacked, other) if kind == "tower" else stacked)
    output = keras.layers.Dense(1)(keras.layers.Concatenate()([hidden, other]))
    inputs = {"ids": ids, "price": price} if structure is dict else structure((ids, price))
    arrays = {"ids": IDS, "price": PRICE} if structure is dict else structure((IDS, PRICE))
    model = keras.Model(inputs, output)
    shake_weights(model)
    received = keras.Model(inputs, stacked).predict(arrays, verbose=0)
    expected = feature_insight_report(layer, received, NAMES, SIZES, label=LABEL)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = feature_insight_report(model, arrays, NAMES, SIZES, label=LABEL, batch_size=10)
    agree(found, expected)
    agree(
        feature_insight_report(model, arrays, NAMES, SIZES, label=LABEL, layer=layer.name), expected
    )


@pytest.mark.parametrize("known", [True, False])
def test_a_sequential_model(known):
    x = RNG.normal(size=(12, 9)).astype("float32")
    mlp = MLP([5, 1], segment_names=NAMES, segment_sizes=SIZES)
    model = keras.Sequential([keras.layers.Rescaling(2.0), mlp, keras.layers.Dense(9)])
    with pytest.raises(ValueError, match="must be a functional or a built sequential model"):
        feature_insight_report(model, x, NAMES, SIZES)
    model.build(x.shape)
    segments = () if known else (NAMES, SIZES)
    label = np.arange(12)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = feature_insight_report(model, x, *segments, label=label)
    agree(found, mlp.feature_insight(2 * x, label=label))


def test_a_model_of_the_layer_alone():
    x = RNG.normal(size=(12, 9)).astype("float32")
    inputs = keras.Input((9,))
    dense = Dense(2)
    model = keras.Model(inputs, dense(inputs))
    agree(
        feature_insight_report(model, x, NAMES, SIZES, label=np.arange(12)),
        feature_insight_report(dense, x, NAMES, SIZES, label=np.arange(12)),
    )


def test_the_first_fitting_layer_is_the_one_before_the_others():
    x = RNG.normal(size=(12, 9)).astype("float32")
    inputs = keras.Input((9,))
    first, second = Dense(9, name="first"), Dense(9, name="second")
    model = keras.Model(inputs, Dense(1, name="third")(second(first(inputs))))
    assert feature_insight_report(model, x, NAMES, SIZES).layer == "first"
    assert feature_insight_report(model, x, NAMES, SIZES, layer="second").layer == "second"


def test_a_layer_that_another_model_calls_too():
    """Its input is looked up in the graph of the model that was given."""
    x = RNG.normal(size=(12, 9)).astype("float32")
    dense = Dense(2)
    other, inputs = keras.Input((9,)), keras.Input((9,))
    keras.Model(other, dense(keras.layers.Rescaling(7.0)(other)))
    model = keras.Model(inputs, dense(keras.layers.Rescaling(3.0)(inputs)))
    agree(
        feature_insight_report(model, x, NAMES, SIZES, label=np.arange(12)),
        feature_insight_report(dense, 3 * x, NAMES, SIZES, label=np.arange(12)),
    )


def twins():
    inputs = keras.Input((9,))
    both = [Dense(2, name=name)(inputs) for name in ("left", "right")]
    return keras.Model(inputs, keras.layers.Concatenate()(both))


def called_twice():
    one, two = keras.Input((9,)), keras.Input((9,))
    dense = Dense(2, name="shared")
    return keras.Model([one, two], keras.layers.Concatenate()([dense(one), dense(two)]))


def within():
    inputs = keras.Input((9,))
    return keras.Model(inputs, keras.Sequential([keras.Input((9,)), Dense(2)])(inputs))


def sequence():
    inputs = keras.Input((5, 9))
    return keras.Model(inputs, Dense(2)(inputs))


def subclassed():
    model = OneLayerModel(Dense(2))
    model(np.ones((2, 9), "float32"))
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (twins, r"must have one first layer .*it has \['left', 'right'\]. Choose with layer=name"),
        (called_twice, r"must call the layer once, it calls \['shared'\] more often"),
        (within, r"must have a Dense, MLP or LHUCTower whose inputs are \(batch, 9\) outside"),
        (sequence, r"must have a Dense, MLP or LHUCTower whose inputs are \(batch, 9\)"),
        (subclassed, "must be a functional or a built sequential model"),
        (lambda: keras.Sequential([Dense(2)]), "must be a functional or a built sequential model"),
    ],
)
def test_ambiguous_and_impossible_models(make, words):
    x = np.ones((2, 9), "float32")
    with pytest.raises(ValueError, match=f"'dense_or_model' {words}.*ass the layer.*Received: "):
        feature_insight_report(make(), x, NAMES, SIZES)


def test_layer_chooses_among_several():
    x = RNG.normal(size=(12, 9)).astype("float32")
    model = twins()
    expected = feature_insight_report(model.get_layer("right"), x, NAMES, SIZES, label=x[:, 0])
    found = feature_insight_report(model, x, NAMES, SIZES, label=x[:, 0], layer="right")
    agree(found, expected)
    with pytest.raises(ValueError, match=r"'layer' must be one of .*'right'.*Received: 'wrong'"):
        feature_insight_report(model, x, NAMES, SIZES, layer="wrong")
    with pytest.raises(ValueError, match="named 'right' whose inputs are"):
        feature_insight_report(model, x, NAMES[:2], SIZES[:2], layer="right")
    with pytest.raises(ValueError, match="with 'segment_sizes'"):
        feature_insight_report(model, x)


@pytest.mark.parametrize("arrays", [[IDS, PRICE[:5]], [IDS, np.float32(3)]])
def test_inputs_of_different_lengths(arrays):
    inputs, stacked = fields()
    model = keras.Model(inputs, Dense(1)(stacked))
    with pytest.raises(ValueError, match="'inputs' must be arrays with the same number of rows"):
        feature_insight_report(model, arrays, NAMES, SIZES)


INFORMATIVE = ["good_1", "good_2", "good_3"]


def planted(rows, seed):
    """Eight fields of four columns; the label hangs on three of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 8, 4)).astype("float32")
    order = [6, 0, 3]  # the informative fields stand among the others
    logit = 3 * x[:, 6, 0] - 2.5 * x[:, 0, 1] + 2 * x[:, 3].sum(axis=1)
    names = [f"noise_{i}" for i in range(8)]
    for field, name in zip(order, INFORMATIVE, strict=True):
        names[field] = name
    label = (rng.uniform(size=rows) < 1 / (1 + np.exp(-logit))).astype("float32")
    return x.reshape(rows, 32), label, names


@pytest.mark.parametrize("kind", ["mlp", "mlp with batch norm", "one unit", "tower"])
def test_a_trained_model_ranks_informative_fields_first(kind):
    keras.utils.set_random_seed(1)
    x, label, names = planted(4000, seed=2)
    stack = {
        "mlp": lambda: MLP([16, 1]),
        "mlp with batch norm": lambda: MLP([16, 1], enable_batch_normalization=True),
        "one unit": lambda: MLP([1]),
        "tower": lambda: LHUCTower([16, 1]),
    }[kind]()
    inputs = keras.Input((32,))
    model = keras.Model(inputs, keras.layers.Activation("sigmoid")(stack(inputs)))
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy")
    model.fit(x, label, epochs=6, batch_size=200, verbose=0)
    x, label, _ = planted(2000, seed=3)
    report = feature_insight_report(model, x, names, [4] * 8, label=label)
    ranked = [row.name for row in report.by_share()]
    assert {*ranked[:3]} == {*INFORMATIVE}
    third, fourth = report.by_share()[2:4]
    assert third.share > 1.2 * fourth.share
    correlation = {row.name: abs(row.correlation) for row in report.rows}
    assert min(correlation[name] for name in INFORMATIVE) > 0.2
    assert max(c for name, c in correlation.items() if name not in INFORMATIVE) < 0.1


def test_a_click_model_with_interactions():
    """Embeddings, crosses and a gated tower: the report of the tower's dense input."""
    user, item, price = (keras.Input((4,), name=name) for name in ("user", "item", "price"))
    crossed = GroupInt("multiply")(([user], [item, price]))
    dense_input = keras.layers.Concatenate()([user, item, price, crossed])
    tower = LHUCTower([6, 1])
    model = keras.Model([user, item, price], tower([dense_input, user]))
    arrays = [RNG.normal(size=(20, 4)).astype("float32") for _ in range(3)]
    names, sizes = ["user", "item", "price", "user x item", "user x price"], [4] * 5
    found = feature_insight_report(model, arrays, names, sizes, label=np.arange(20))
    a, b, c = arrays
    received = np.concatenate([a, b, c, a * b, a * c], axis=1)
    agree(found, feature_insight_report(tower, received, names, sizes, label=np.arange(20)))


def test_tower_that_gates_its_input_is_refused():
    tower = LHUCTower([4, 1], gate_on="input")
    x = np.ones((3, 5), "float32")
    tower(x)
    with pytest.raises(ValueError, match="'dense_or_model' must not gate its own input"):
        feature_insight_report(tower, x, ["a", "b"], [2, 3])
