# SPDX-License-Identifier: Apache-2.0
"""FeatureInsight in `fit`: the files say what a report after each epoch says."""

import csv
import sys

import keras
import numpy as np
import pytest

from mlayers.insight import FeatureInsight, feature_insight_report
from mlayers.layers import MLP, Dense
from support import programs
from support.check_model import OneLayerModel

RNG = np.random.default_rng(8)
NAMES, SIZES = ["user", "item, new", "price"], [4, 2, 1]
X = RNG.normal(size=(40, 7)).astype("float32")
Y = (X[:, :1] - X[:, 4:5] > 0).astype("float32")
COLUMNS = ["mean", "mean_abs", "share", "correlation"]


def model_of(jit_compile="auto", dims=(6, 1), **options):
    mlp = MLP([*dims], segment_names=NAMES, segment_sizes=SIZES, **options)
    inputs = keras.Input((7,))
    hidden = keras.layers.Dropout(0.1)(inputs)
    model = keras.Model(inputs, keras.layers.Activation("sigmoid")(mlp(hidden)))
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy", jit_compile=jit_compile)
    return model


def fit(model, *callbacks, epochs=3, **options):
    data = {"validation_data": (X[:8], Y[:8]), "batch_size": 10, "verbose": 0, **options}
    return model.fit(X, Y, epochs=epochs, callbacks=[*callbacks], **data)


class Expected(keras.callbacks.Callback):
    """The reports after each epoch, from the function."""

    def __init__(self, **options):
        super().__init__()
        self.options, self.reports = options, []

    def on_epoch_end(self, epoch, logs=None):
        report = feature_insight_report(self.model, X, NAMES, SIZES, **self.options)
        self.reports.append(report)


def read(path, separator=","):
    with path.open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file, delimiter=separator)]


def check_file(path, reports, first_epoch=0, **options):
    lines = read(path, **options)
    expected = [
        (str(first_epoch + epoch), row) for epoch, report in enumerate(reports)
        for row in report.rows
    ]  # fmt: skip
    assert len(lines) == len(expected)
    for line, (epoch, row) in zip(lines, expected, strict=True):
        assert [*line] == ["epoch", "field", *COLUMNS]
        assert (line["epoch"], line["field"]) == (epoch, row.name)
        for column in COLUMNS:
            value = getattr(row, column)
            if value is None:
                assert line[column] == ""
            else:
                np.testing.assert_allclose(float(line[column]), value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("jit_compile", "dims"), [(True, (6, 1)), (False, (6, 1)), (False, (1,))])
def test_the_file_says_what_the_reports_say(jit_compile, dims, tmp_path):
    path = tmp_path / "new" / "insight.csv"
    # In torch a compiled batch norm takes a minute of compiling.
    model = model_of(jit_compile, dims, enable_batch_normalization=not jit_compile)
    insight, expected = FeatureInsight(path, X, label=Y), Expected(label=Y)
    fit(model, insight, expected)
    check_file(path, expected.reports)
    check_file(path, insight.reports)
    assert len({report.rows[0].mean_abs for report in insight.reports}) == 3  # it trained


def test_training_goes_on_as_without_it(tmp_path):
    histories = []
    for callbacks in ([], [FeatureInsight(tmp_path / "insight.csv", X, label=Y)]):
        keras.utils.set_random_seed(3)
        model = model_of(enable_batch_normalization=True)
        histories.append(fit(model, *callbacks).history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-5)


def test_pandas_reads_the_file(tmp_path):
    import pandas as pd

    path = tmp_path / "insight.csv"
    x = X.copy()
    x[:, 6] = 1  # whose contribution is constant
    fit(model_of(), FeatureInsight(path, x, label=Y), epochs=2)
    table = pd.read_csv(path)
    assert [*table["epoch"]] == [0, 0, 0, 1, 1, 1]
    assert [*table["field"]] == NAMES * 2
    np.testing.assert_allclose(table.groupby("epoch")["share"].sum(), 1)
    assert [*table["correlation"].isna()] == [False, False, True] * 2


def test_without_a_label_the_column_is_empty(tmp_path):
    path, expected = tmp_path / "insight.csv", Expected()
    fit(model_of(), FeatureInsight(str(path), X, batch_size=16), expected)
    check_file(path, expected.reports)


def test_each_fit_begins_the_file_anew(tmp_path):
    path, model = tmp_path / "insight.csv", model_of()
    path.write_text("something else\n")
    insight = FeatureInsight(path, X)
    fit(model, insight)
    fit(model, insight, epochs=2)
    assert len(insight.reports) == 2
    check_file(path, insight.reports)


def test_append_goes_on_in_the_file(tmp_path):
    path, model = tmp_path / "insight.csv", model_of()
    first = FeatureInsight(path, X, append=True, separator=";")
    fit(model, first, epochs=2)
    second = FeatureInsight(path, X, append=True, separator=";")
    fit(model, second, epochs=4, initial_epoch=2)
    check_file(path, [*first.reports, *second.reports], separator=";")
    with pytest.raises(ValueError, match=r"'filename' must be a file with the columns .*Received"):
        fit(model, FeatureInsight(path, X, append=True))


class Interrupts(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 6:
            raise KeyboardInterrupt


def test_an_interrupt_leaves_whole_files(tmp_path):
    pytest.importorskip("tensorboard")
    path, logs = tmp_path / "insight.csv", tmp_path / "logs"
    insight = FeatureInsight(path, X, log_dir=logs)
    with pytest.raises(KeyboardInterrupt):
        fit(model_of(), insight, Interrupts())
    check_file(path, insight.reports)
    assert len(insight.reports) == 1
    assert len(scalars(logs)["feature_insight/share/user"]) == 1
    fit(model_of(), insight)  # and the callback can be used again
    check_file(path, insight.reports)


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("label", [None, Y])
def test_tensorboard_reads_the_numbers(label, tmp_path):
    pytest.importorskip("tensorboard")
    insight = FeatureInsight(None, X, label=label, log_dir=tmp_path / "logs" / "insight")
    fit(model_of(), insight)
    found = scalars(tmp_path / "logs" / "insight")
    columns = COLUMNS[:3] if label is None else COLUMNS
    assert {*found} == {f"feature_insight/{c}/{name}" for c in columns for name in NAMES}
    for tag, events in found.items():
        _, column, name = tag.split("/")
        assert [event.step for event in events] == [0, 1, 2]
        rows = [report.rows[NAMES.index(name)] for report in insight.reports]
        expected = [getattr(row, column) for row in rows]
        np.testing.assert_allclose([event.value for event in events], expected, rtol=1e-6)
        assert [event.wall_time for event in events] == sorted(event.wall_time for event in events)
    assert not [*tmp_path.glob("*.csv")]


def test_each_fit_has_an_event_file_of_its_own(tmp_path):
    pytest.importorskip("tensorboard")
    model, insight = model_of(), FeatureInsight(None, X, log_dir=str(tmp_path))
    fit(model, insight, epochs=1)
    fit(model, insight, epochs=2, initial_epoch=1)
    assert len([*tmp_path.glob("events.out.tfevents.*")]) == 2
    assert [e.step for e in scalars(tmp_path)["feature_insight/mean/price"]] == [0, 1]


def test_event_files_need_no_tensorflow(tmp_path):
    pytest.importorskip("tensorboard")
    program = (
        "import sys\n"
        "from mlayers.insight._events import EventFile\n"
        f"EventFile({str(tmp_path)!r}, 'test').write(3, {{'tag': 0.5}})\n"
        "import keras\n"
        "print('tensorflow' in sys.modules and keras.backend.backend() != 'tensorflow')\n"
    )
    assert programs.output("-c", program).split()[-1] == "False"
    (event,) = scalars(tmp_path)["tag"]
    assert (event.step, event.value) == (3, 0.5)


def test_a_missing_tensorboard_is_named(monkeypatch, tmp_path):
    for name in [*sys.modules]:
        if name.split(".")[0] == "tensorboard":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    words = (
        r"FeatureInsight\(log_dir=...\) needs the package 'tensorboard': pip install tensorboard"
    )
    with pytest.raises(ImportError, match=words):
        FeatureInsight(None, X, log_dir=tmp_path)
    FeatureInsight(tmp_path / "insight.csv", X)


def test_a_layer_by_name(tmp_path):
    inputs = keras.Input((7,))
    both = [Dense(2, name=name)(inputs) for name in ("left", "right")]
    model = keras.Model(inputs, Dense(1)(keras.layers.Concatenate()(both)))
    model.compile("sgd", "mse")
    path = tmp_path / "insight.csv"
    with pytest.raises(ValueError, match=r"FeatureInsight: .*it has \['left', 'right'\]"):
        fit(model, FeatureInsight(path, X, NAMES, SIZES))
    insight = FeatureInsight(path, X, NAMES, SIZES, layer="right")
    fit(model, insight)
    assert [report.layer for report in insight.reports] == ["right"] * 3
    last = feature_insight_report(model.get_layer("right"), X, NAMES, SIZES)
    check_file(path, [*insight.reports[:2], last])


@pytest.mark.parametrize("computed", [False, True])
def test_a_layer_within_a_subclassed_model(computed, tmp_path):
    mlp = MLP([3, 1], segment_names=NAMES, segment_sizes=SIZES)
    model = OneLayerModel(mlp)
    model.compile("sgd", "mse")
    calls = []
    inputs = (lambda: calls.append(0) or X) if computed else X
    path = tmp_path / "insight.csv"
    insight = FeatureInsight(path, inputs, layer=mlp, label=Y)
    fit(model, insight)
    check_file(path, [*insight.reports[:2], mlp.feature_insight(X, Y)])
    assert len(calls) == 3 * computed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"inputs": X[:, :3]}, r"'inputs' must be what 'mlp' receives, \(batch, 7\)"),
        ({"label": Y[:5]}, "'label' must have one number"),
        ({"segment_names": NAMES, "segment_sizes": [1, 2, 3]}, "must have a Dense, MLP"),
        ({"layer": "no such layer"}, "'layer' must be one of the names"),
        ({"batch_size": 0}, "'batch_size' must be an integer"),
    ],
)
def test_errors_come_before_the_first_epoch(arguments, words, tmp_path):
    model = model_of(name="mlp")
    if "inputs" in arguments:
        arguments = {**arguments, "layer": model.get_layer("mlp")}
    insight = FeatureInsight(tmp_path / "insight.csv", **{"inputs": X, **arguments})
    with pytest.raises(ValueError, match=f"^FeatureInsight: .*{words}.*Received: "):
        fit(model, insight)
    assert model.optimizer.iterations == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"filename": None}, "'filename' must be the name of a file"),
        ({"segment_names": NAMES}, "'segment_names' and 'segment_sizes' go together"),
        ({"segment_names": NAMES, "segment_sizes": [7]}, "'segment_sizes' must have one size"),
    ],
)
def test_constructor_refuses(arguments, words):
    with pytest.raises(ValueError, match=f"^FeatureInsight: {words}.*Received: "):
        FeatureInsight(**{"filename": "insight.csv", "inputs": X, **arguments})
