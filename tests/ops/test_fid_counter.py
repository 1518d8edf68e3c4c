# SPDX-License-Identifier: Apache-2.0
"""fid_counter: a saturating counter whose gradient is a rule, on every path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlayers import fid_counter, fid_counter_grad
from support.op_examples import NOT_FINITE, NOT_REAL, Bad, Example, bad_arrays
from support.tensor_checks import TensorChecks
from support.tensors import COMPILERS, to_array, to_tensor


def example(name, shape, threshold, step):
    attributes = {"counter_threshold": threshold, "step": step}
    return Example(name, {"counter": shape}, attributes, batched=("counter",))


class TestFidCounter(TensorChecks):
    function, gradient = fid_counter, fid_counter_grad
    gradient_takes_upstream = False
    examples = [
        example("column", (6, 1), 0.5, 0.25),
        example("rank_3", (2, 3, 2), 1, 1),
        example("never_full", (4,), 1e6, 2),
        example("step_down", (4, 2), 0, -0.5),
    ]
    good = {"counter": np.ones((4, 1), "float32"), "counter_threshold": 5.0, "step": 1.0}
    bad_calls = [
        *bad_arrays({"counter": np.ones((4, 1), "float32")}, same_dtype=False),
        *(
            Bad(f"{name}_{n}", {name: v}, TypeError, f"'{name}' must be a real number")
            for name in ("counter_threshold", "step")
            for n, v in NOT_REAL.items()
        ),
        *(
            Bad(f"{name}_{n}", {name: v}, ValueError, f"'{name}' must be finite")
            for name in ("counter_threshold", "step")
            for n, v in NOT_FINITE.items()
        ),
    ]

    @pytest.mark.parametrize("compile_with", [None, *COMPILERS])
    @pytest.mark.parametrize("scale", [1.0, 0.0, -3.0])
    def test_gradient_ignores_the_upstream(self, backend, scale, compile_with):
        counter = np.array([[0], [999.5], [1000], [1001]], "float32")
        case = example("rule", counter.shape, 1000, 2)
        upstream = to_tensor(np.full_like(counter, scale))
        (found,) = self.autodiff(case, [to_tensor(counter)], upstream, compile_with)
        np.testing.assert_array_equal(to_array(found), [[-2], [-2], [0], [0]])


def test_saturation_by_hand():
    counter = np.array([0, 999.5, 999, 1000, 2000], "float32")
    assert fid_counter(counter, 1000).tolist() == [1, 1000, 1000, 1000, 1000]
    assert fid_counter_grad(counter, 1000).tolist() == [-1, -1, -1, 0, 0]


def test_no_negative_zero_in_the_gradient():
    grad = fid_counter_grad(np.array([5.0, 0.0]), 5)
    assert not np.signbit(grad[0])


def test_nan_stays_nan():
    assert np.isnan(fid_counter(np.array([np.nan], "float32"), 5)).all()


@given(
    hnp.arrays(
        "float32", hnp.array_shapes(min_dims=0, min_side=0), elements=st.floats(0, 100, width=32)
    ),
    st.integers(0, 100),
    st.sampled_from([0.5, 1.0, 3.0]),
)
@settings(max_examples=60, deadline=None)
def test_sgd_with_learning_rate_1_counts(counter, threshold, step):
    """One SGD(1.0) step adds `step` to the stored value exactly where there is room."""
    stored = counter - fid_counter_grad(counter, threshold, step)
    expected = np.where(counter < threshold, counter + np.float32(step), counter)
    np.testing.assert_array_equal(stored, expected)
    np.testing.assert_array_equal(
        fid_counter(counter, threshold, step), np.minimum(counter + np.float32(step), threshold)
    )


def test_large_enough_for_threads():
    counter = np.arange(17_000_000, dtype="float32")
    np.testing.assert_array_equal(fid_counter(counter, 9e6), np.minimum(counter + 1, 9e6))
    expected = -(counter < 9e6).astype("float32")
    np.testing.assert_array_equal(fid_counter_grad(counter, 9e6), expected)


def test_numpy_numbers_are_numbers():
    counter = np.zeros(2, "float32")
    assert fid_counter(counter, np.float64(5), np.int64(2)).tolist() == [2, 2]
