# SPDX-License-Identifier: Apache-2.0
"""ffm: left field times right field, on every path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlayers import ffm, ffm_grad
from support.array_checks import check_op_and_gradient
from support.op_examples import NOT_INTEGERS, Bad, Example, bad_arrays, bad_ranks
from support.tensor_checks import TensorChecks


def example(name, B, L, R, D, int_type):
    return Example(
        name,
        {"left": (B, L * D), "right": (B, R * D)},
        {"dim_size": D, "int_type": int_type},
        batched=("left", "right"),
    )


GOOD = {"left": np.ones((4, 6), "float32"), "right": np.ones((4, 9), "float32"), "dim_size": 3}
MULTIPLE = "'{}' must have a width that is a multiple of dim_size=3"


class TestFfm(TensorChecks):
    function, gradient = ffm, ffm_grad
    examples = [
        example("multiply", 3, 2, 3, 4, "multiply"),
        example("dot", 3, 2, 3, 4, "dot"),
        example("multiply_odd", 2, 3, 1, 5, "multiply"),
        example("dot_odd", 2, 1, 3, 7, "dot"),
        example("dim_1", 2, 3, 2, 1, "multiply"),
    ]
    good = GOOD
    bad_calls = [
        *bad_arrays({name: GOOD[name] for name in ("left", "right")}),
        *bad_ranks(GOOD, "left", "right"),
        Bad("left_width", {"left": np.ones((4, 8), "f")}, ValueError, MULTIPLE.format("left")),
        Bad("right_width", {"right": np.ones((4, 8), "f")}, ValueError, MULTIPLE.format("right")),
        Bad("batch", {"right": np.ones((5, 9), "f")}, ValueError, "must have the same batch size"),
        Bad("dim_size_0", {"dim_size": 0}, ValueError, "'dim_size' must be at least 1"),
        Bad("dim_size_-1", {"dim_size": -1}, ValueError, "'dim_size' must be at least 1"),
        *(
            Bad(f"dim_size_{n}", {"dim_size": v}, TypeError, "'dim_size' must be an integer")
            for n, v in NOT_INTEGERS.items()
        ),
        *(
            Bad(f"int_type_{v}", {"int_type": v}, ValueError, "must be 'multiply' or 'dot'")
            for v in ("mul", "Dot", "", None, 0, b"dot")
        ),
    ]


def test_formula_by_hand():
    left = np.array([[1, 2, 3, 4]], "float32")
    right = np.array([[10, 20, 30, 40]], "float32")
    assert ffm(left, right, 2).tolist() == [[10, 40, 30, 80, 30, 80, 90, 160]]
    assert ffm(left, right, 2, "dot").tolist() == [[50, 110, 110, 250]]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_shape(data):
    B, L, R, D = (data.draw(st.integers(low, 9), label=axis) for axis, low in
                  (("B", 0), ("L", 0), ("R", 0), ("D", 1)))  # fmt: skip
    case = example("any", B, L, R, D, data.draw(st.sampled_from(["multiply", "dot"])))
    check_op_and_gradient(ffm, ffm_grad, case, {"rtol": 1e-4, "atol": 1e-4})


@pytest.mark.parametrize("int_type", ["multiply", "dot"])
def test_large_enough_for_threads(int_type):
    case = example("large", 2000, 16, 16, 33, int_type)
    check_op_and_gradient(ffm, ffm_grad, case, {"rtol": 1e-4, "atol": 1e-3})


def test_grad_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"'grad' must be shaped as the output of ffm, \(4, 18\)"):
        ffm_grad(np.ones((4, 17), "f"), **GOOD)


def test_outputs_that_share_memory_are_refused():
    out = np.empty((4, 6), "f")
    with pytest.raises(ValueError, match="must not share memory"):
        ffm_grad(np.ones((4, 12), "f"), GOOD["left"], GOOD["left"], 3, out=(out, out))


def test_out_that_overlaps_an_input_is_right():
    left, right = np.arange(8, dtype="f").reshape(4, 2), np.full((4, 1), 3, "f")
    assert ffm(left, right, 1, out=left).tolist() == [[0, 3], [6, 9], [12, 15], [18, 21]]


@pytest.mark.slow
def test_more_than_2_31_elements():
    fields = 46341  # the output has 46341² > 2³¹ elements, 8.6 GB
    left = np.arange(fields, dtype="f")[None] / fields
    right = left[:, ::-1] + 1
    out = ffm(left, right, 1)
    assert out.shape == (1, fields * fields)
    for i, j in ((0, 0), (fields - 1, fields - 1), (fields // 2, 7), (fields - 1, 0)):
        assert out[0, i * fields + j] == left[0, i] * right[0, j]
