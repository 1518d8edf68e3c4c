# SPDX-License-Identifier: Apache-2.0
"""The numbers of a report are those of plain NumPy, for every kind of layer."""

import dataclasses

import keras
import numpy as np
import pytest

from mlayers.insight import feature_insight_report
from mlayers.layers import MLP, Dense, LHUCTower
from support.check_layer import shapes_of
from support.check_model import shake_weights
from support.frameworks import float64_allowed, to_numpy

RNG = np.random.default_rng(5)
NAMES, SIZES = ["user", "item", "empty", "price"], [4, 2, 0, 1]
X = RNG.normal(size=(23, 7)).astype("float32")
LABEL = RNG.integers(0, 2, size=23)
NORM = {"allow_kernel_norm": True, "kernel_norm_trainable": True}


def built(layer, inputs=X):
    layer.build(shapes_of(inputs))
    shake_weights(layer)
    return layer


def contributions(x_bn, kernel_nk):
    """(B, S) by the definition, in float64."""
    columns = []
    for last, size in zip(np.cumsum(SIZES), SIZES, strict=True):
        part_bk = x_bn[:, last - size : last].astype("float64") @ kernel_nk[last - size : last]
        one = part_bk.shape[1] == 1
        columns.append(part_bk[:, 0] if one else np.sqrt((part_bk**2).sum(axis=1)))
    return np.stack(columns, axis=1)


def along_label(x_bn, kernel_nk, label):
    """(B, S): what each field adds in the direction of the outputs' covariance with the label."""
    label_b = np.ravel(label).astype("float64")
    output_bk = x_bn.astype("float64") @ kernel_nk
    direction_k = [np.cov(output_b, label_b)[0, 1] for output_b in output_bk.T]
    return contributions(x_bn, kernel_nk @ np.array(direction_k)[:, None])


def check_report(report, x_bn, kernel_nk, label=LABEL):
    """A report against the definition."""
    values_bs = contributions(x_bn, kernel_nk)
    mean_abs_s = np.abs(values_bs).mean(axis=0)
    assert [row.name for row in report.rows] == NAMES
    assert [row.size for row in report.rows] == SIZES
    close = {"rtol": 2e-5, "atol": 2e-6}
    np.testing.assert_allclose([r.mean for r in report.rows], values_bs.mean(axis=0), **close)
    np.testing.assert_allclose([r.mean_abs for r in report.rows], mean_abs_s, **close)
    np.testing.assert_allclose(
        [r.share for r in report.rows], mean_abs_s / mean_abs_s.sum(), **close
    )
    assert sum(r.share for r in report.rows) == pytest.approx(1)
    if label is not None and kernel_nk.shape[1] > 1:
        values_bs = along_label(x_bn, kernel_nk, label)
    for row, values_b in zip(report.rows, values_bs.T, strict=True):
        if label is None:
            assert row.correlation is None
        elif np.ptp(values_b) == 0:
            assert np.isnan(row.correlation)
        else:
            expected = np.corrcoef(values_b, np.ravel(label))[0, 1]
            assert row.correlation == pytest.approx(expected, abs=1e-5)


def normed(dense):
    kernel = to_numpy(dense.kernel.value).astype("float64")
    kernel = kernel / np.sqrt((kernel**2).sum(axis=0))
    length = dense.trainable_kernel_norm
    return kernel if length is None else kernel * to_numpy(length.value)


def batch_normed(norm, x_bn):
    gamma, beta, mean, variance = (to_numpy(v.value).astype("float64") for v in norm.weights)
    return (x_bn - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta


@pytest.mark.parametrize("batch_size", [1, 5, 22, 23, 4096])
@pytest.mark.parametrize("units", [1, 5])
def test_a_plain_dense_layer(units, batch_size):
    dense = built(keras.layers.Dense(units))
    for label in (None, LABEL, LABEL[:, None].astype("float32"), LABEL == 1, [*map(int, LABEL)]):
        report = feature_insight_report(dense, X, NAMES, SIZES, label=label, batch_size=batch_size)
        check_report(report, X, to_numpy(dense.kernel.value), label)
        assert (report.layer, report.units, report.n_examples) == (dense.name, units, 23)


@pytest.mark.parametrize("units", [1, 5])
@pytest.mark.parametrize("options", [{}, NORM, {"allow_kernel_norm": True}, {"activation": "tanh"}])
def test_our_dense_layer(options, units):
    dense = built(Dense(units, **options))
    kernel = normed(dense) if dense.allow_kernel_norm else to_numpy(dense.kernel.value)
    report = feature_insight_report(dense, X, NAMES, SIZES, label=LABEL)
    check_report(report, X, kernel)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("dims", [[1], [5, 3]])
def test_a_stack_counts_by_its_first_dense_layer(dims, normalised):
    mlp = built(MLP(dims, enable_batch_normalization=normalised))
    tower = built(LHUCTower(dims, enable_batch_normalization=normalised), (X, X[:, :3]))
    for layer in (mlp, tower):
        parts = {part.path.removeprefix(f"{layer.path}/"): part for part in layer._flatten_layers()}
        first, before = ("dense_0", "batch_norm_in") if layer is mlp else (
            "layer_1/dense", "batch_norm")  # fmt: skip
        x = batch_normed(parts[before], X) if normalised else X
        report = feature_insight_report(layer, X, NAMES, SIZES, label=LABEL)
        check_report(report, x, normed(parts[first]))
        assert (report.layer, report.units) == (layer.name, dims[0])


def test_fields_and_bias_add_up_to_the_output():
    mlp = built(MLP([1], enable_batch_normalization=True))
    (row,) = feature_insight_report(mlp, X[:1], ["all"], [7]).rows
    fields = feature_insight_report(mlp, X[:1], NAMES, SIZES).rows
    assert sum(field.mean for field in fields) == pytest.approx(row.mean, rel=1e-5)
    bias = to_numpy(mlp.get_layer(1).bias.value)
    output = to_numpy(mlp(keras.ops.convert_to_tensor(X[:1])))
    assert row.mean + bias[0] == pytest.approx(output[0, 0], rel=1e-5)


@pytest.mark.parametrize("units", [1, 5])
def test_the_bias_belongs_to_no_field(units):
    dense = built(Dense(units))
    before = feature_insight_report(dense, X, NAMES, SIZES, label=LABEL)
    dense.bias.assign(dense.bias + 100)
    after = feature_insight_report(dense, X, NAMES, SIZES, label=LABEL)
    assert np.array_equal(before.to_pandas().iloc[:, 1:], after.to_pandas().iloc[:, 1:], True)


@pytest.mark.parametrize("units", [1, 5])
def test_inputs_of_any_kind(units):
    dense = built(Dense(units, **NORM))
    expected = feature_insight_report(dense, X, NAMES, SIZES)
    kinds = [X.astype("float64"), X.tolist(), keras.ops.convert_to_tensor(X), np.asfortranarray(X)]
    for inputs in kinds:
        found = feature_insight_report(dense, inputs, NAMES, SIZES, batch_size=7)
        for one, other in zip(found.rows, expected.rows, strict=True):
            assert one.mean_abs == pytest.approx(other.mean_abs, rel=1e-5)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "float16", "float64"])
def test_dtype_policies(dtype):
    with float64_allowed():
        mlp = built(MLP([5, 1], enable_batch_normalization=True, dtype=dtype))
        as_float = {id(v): to_numpy(keras.ops.cast(v.value, "float32")) for v in mlp.variables}
        reference = built(MLP([5, 1], enable_batch_normalization=True))
        reference.set_weights([as_float[id(v)] for v in mlp.variables])
        found = feature_insight_report(mlp, X, NAMES, SIZES)
    expected = feature_insight_report(reference, X, NAMES, SIZES)
    for one, other in zip(found.rows, expected.rows, strict=True):
        assert one.mean_abs == pytest.approx(other.mean_abs, rel=0.05, abs=1e-3)


def test_float64_is_computed_in_float64():
    with float64_allowed():
        dense = built(keras.layers.Dense(1, dtype="float64"))
        kernel = to_numpy(dense.kernel.value)
        x = RNG.normal(size=(9, 7))
        report = feature_insight_report(dense, x, NAMES, SIZES)
    expected = contributions(x, kernel).mean(axis=0)
    np.testing.assert_allclose([row.mean for row in report.rows], expected, rtol=1e-12)


@pytest.mark.parametrize("units", [1, 3])
def test_what_is_constant_has_no_correlation(units):
    dense = built(Dense(units))
    x = X.copy()
    x[:, :4] = 0.1
    rows = feature_insight_report(dense, x, NAMES, SIZES, label=LABEL, batch_size=4).rows
    assert [np.isnan(row.correlation) for row in rows] == [True, False, True, False]
    rows = feature_insight_report(dense, x, NAMES, SIZES, label=np.full(23, 0.3), batch_size=4).rows
    assert all(np.isnan(row.correlation) for row in rows)


def test_correlation_of_plus_and_minus_one():
    dense = Dense(1, kernel_initializer="ones")
    x = np.stack([LABEL, -LABEL], axis=1) + np.float32(1000)
    dense.build(x.shape)
    rows = feature_insight_report(dense, x, ["up", "down"], [1, 1], label=LABEL).rows
    assert [row.correlation for row in rows] == pytest.approx([1, -1])


def test_nothing_at_all_has_no_share():
    dense = Dense(2, kernel_initializer="zeros")
    dense.build(X.shape)
    rows = feature_insight_report(dense, X, NAMES, SIZES).rows
    assert [row.share for row in rows] == [0, 0, 0, 0]


def test_weights_that_diverged_are_reported():
    dense = built(keras.layers.Dense(2))
    dense.kernel.assign(np.full((7, 2), np.nan))
    report = feature_insight_report(dense, X, NAMES, SIZES, label=LABEL)
    assert np.isnan(report.rows[0].share)
    assert "nan %" in str(report)
    assert "nan" in report._repr_html_()


def test_rows_are_frozen():
    report = feature_insight_report(built(Dense(1)), X, NAMES, SIZES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.rows[0].share = 1.0


def report_of(target=None, inputs=X, names=NAMES, sizes=SIZES, **options):
    return feature_insight_report(target or built(Dense(1)), inputs, names, sizes, **options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"inputs": X[:, :6]}, r"'inputs' must be what 'dense\w*' receives, \(batch, 7\)"),
        ({"inputs": X[None]}, r"'inputs'"),
        ({"inputs": X[:0]}, r"'inputs' .* at least one"),
        ({"names": NAMES[:3]}, "'segment_sizes' must have one size for each of the 3 names"),
        ({"names": ["a", "b", "a", "c"]}, "'segment_names' must be different names"),
        ({"names": "abcd"}, "'segment_names' must be a list of strings"),
        ({"names": [], "sizes": []}, "'segment_names' must be different names, at least one"),
        ({"names": [1, 2, 3, 4]}, "'segment_names' must be a list of strings"),
        ({"names": None}, "'segment_names' and 'segment_sizes' go together"),
        ({"sizes": None}, "'segment_names' and 'segment_sizes' go together"),
        ({"names": None, "sizes": None}, "'segment_names' and 'segment_sizes' must be given"),
        ({"sizes": [4, 2, 1, 1]}, r"'segment_sizes' must add up .*, 7; they add up to 8"),
        ({"sizes": [4, 4, -1, 0]}, "'segment_sizes' must be a list of integers >= 0"),
        ({"sizes": [4.0, 2, 0, 1]}, "'segment_sizes' must be a list of integers >= 0"),
        ({"label": LABEL[:5]}, r"'label' must have .* 23 rows"),
        ({"label": np.where(LABEL, np.nan, 0)}, "'label' must be finite"),
        ({"label": ["yes"] * 23}, "'label' must be numbers"),
        ({"batch_size": 0}, "'batch_size' must be an integer >= 1"),
        ({"layer": "dense"}, "'layer' is for a keras.Model"),
        ({"target": Dense(1)}, "'dense_or_model' must be built"),
        ({"target": MLP([3, 1])}, "'dense_or_model' must be built"),
    ],
)
def test_bad_calls(arguments, words):
    with pytest.raises(ValueError, match=f"(?s)^feature_insight_report: {words}.*Received: "):
        report_of(**arguments)


@pytest.mark.parametrize("wrong", [keras.layers.ReLU(), "dense", X])
def test_what_has_no_dense_layer_is_refused(wrong):
    with pytest.raises(TypeError, match=r"'dense_or_model' must be a Dense, MLP .*Received: "):
        feature_insight_report(wrong, X, NAMES, SIZES)


def test_a_quantised_layer_is_refused():
    dense = built(keras.layers.Dense(4))
    dense.quantize("int8")
    with pytest.raises(ValueError, match="'dense_or_model' must have a kernel of floats"):
        feature_insight_report(dense, X, NAMES, SIZES)
