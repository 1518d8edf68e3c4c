# SPDX-License-Identifier: Apache-2.0
"""feature_insight: a matrix product kept apart per segment, on every path."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlayers
from mlayers import feature_insight, feature_insight_grad
from support.array_checks import check_op_and_gradient
from support.op_examples import Bad, Example, bad_arrays, bad_ranks
from support.tensor_checks import TensorChecks


def example(name, B, segment_sizes, K, aggregate):
    N = sum(segment_sizes)
    return Example(
        name,
        {"input_embedding": (B, N), "weight": (N, K)},
        {"segment_sizes": segment_sizes, "aggregate": aggregate},
        batched=("input_embedding",),
    )


GOOD = {
    "input_embedding": np.ones((4, 6), "float32"),
    "weight": np.ones((6, 2), "float32"),
    "segment_sizes": [1, 2, 3],
}


class TestFeatureInsight(TensorChecks):
    function, gradient = feature_insight, feature_insight_grad
    examples = [
        example("plain", 3, [2, 3], 4, False),
        example("aggregate", 3, [2, 3], 4, True),
        example("empty_segment", 2, [2, 0, 1], 3, False),
        example("empty_segment_aggregate", 2, [0, 2, 1], 3, True),
        example("one_segment", 2, [4], 1, False),
    ]
    good = GOOD
    bad_calls = [
        *bad_arrays({name: GOOD[name] for name in ("input_embedding", "weight")}),
        *bad_ranks(GOOD, "input_embedding", "weight"),
        Bad(
            "weight_rows", {"weight": np.ones((5, 2), "f")}, ValueError, "must have a row for every"
        ),
        Bad("sum", {"segment_sizes": [1, 2, 4]}, ValueError, "must add up to the width"),
        Bad("empty", {"segment_sizes": []}, ValueError, "must name at least one segment"),
        Bad("negative", {"segment_sizes": [8, -2]}, ValueError, "must have no negative size"),
        *(
            Bad(f"segment_sizes_{n}", {"segment_sizes": v}, TypeError, "must be a list of integers")
            for n, v in {
                "None": None,
                "int": 6,
                "str": "123",
                "array of rank 0": np.array(6),
                "set": {6},
                "floats": [1.0, 5.0],
                "bools": [True, 5],
                "dict": {1: 2},
                "nested": [[1, 2, 3]],
            }.items()
        ),
        *(
            Bad(f"aggregate_{v}", {"aggregate": v}, TypeError, "'aggregate' must be True or False")
            for v in (None, 1, "yes")
        ),
    ]


def test_formula_by_hand():
    x = np.array([[1, 2, 3]], "float32")
    weight = np.array([[1, 10], [2, 20], [3, 30]], "float32")
    assert feature_insight(x, weight, [1, 0, 2]).tolist() == [[1, 10, 0, 0, 13, 130]]
    aggregated = feature_insight(x, weight, (1, 0, 2), aggregate=True)
    assert aggregated.tolist() == [[101, 0, 13**2 + 130**2]]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_shape(data):
    sizes = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
    B, K = data.draw(st.integers(0, 6), label="B"), data.draw(st.integers(0, 140), label="K")
    case = example("any", B, sizes, K, data.draw(st.booleans()))
    tolerance = {"rtol": 1e-4, "atol": 1e-3}
    check_op_and_gradient(feature_insight, feature_insight_grad, case, tolerance)


@pytest.mark.parametrize("aggregate", [False, True])
def test_large_enough_for_threads(aggregate):
    case = example("large", 1000, [30, 0, 50], 210, aggregate)
    tolerance = {"rtol": 1e-4, "atol": 1e-2}
    check_op_and_gradient(feature_insight, feature_insight_grad, case, tolerance)


@pytest.mark.parametrize("K", [16, 65, 150])
@pytest.mark.parametrize("sizes", [[1, 0, 5], [16] * 9, [63, 64], [65]], ids=str)
@pytest.mark.parametrize("B", [1, 64, 130])
def test_aggregate_either_way(B, sizes, K):
    """Narrow segments of many rows have another gradient kernel than wide ones of few."""
    case = example("ways", B, sizes, K, True)
    tolerance = {"rtol": 1e-4, "atol": 1e-2}
    check_op_and_gradient(feature_insight, feature_insight_grad, case, tolerance)


def test_aggregate_never_holds_every_product():
    """Peak memory does not grow with K: the (B, S·K) array would be 40 MB here."""
    x, weight = np.ones((500, 20), "float32"), np.ones((20, 1000), "float32")
    sizes = [1] * 20
    with mlayers.use_kernels("auto"):
        feature_insight(x, weight, sizes, aggregate=True)
        tracemalloc.start()
        out = feature_insight(x, weight, sizes, aggregate=True)
        feature_insight_grad(out, x, weight, sizes, aggregate=True)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1e6


def test_segment_sizes_of_any_integer_kind():
    x, weight = np.ones((1, 3), "f"), np.ones((3, 1), "f")
    for sizes in ([1, 2], (1, 2), np.array([1, 2]), iter([1, 2])):
        assert feature_insight(x, weight, sizes).tolist() == [[1, 2]]
    assert feature_insight(x, weight, [1, 2], aggregate=np.True_).tolist() == [[1, 4]]


def test_grad_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"as the output of feature_insight, \(4, 6\)"):
        feature_insight_grad(np.ones((4, 3), "f"), **GOOD)
