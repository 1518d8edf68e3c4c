# SPDX-License-Identifier: Apache-2.0
"""The array operations against the original: NumPy arrays, backend tensors, compiled graphs.

`torch.compile` takes seconds per shape, so with torch the compiled test runs the first case of
each formula (COMPILED_WITH_TORCH); the other backends compile every case.
"""

import keras
import numpy as np
import pytest

from mlayers import ops
from support import parity
from support.frameworks import BACKEND, value_and_grads

CASES = parity.cases("ffm", "feature_insight", "fid_counter")
COMPILED_WITH_TORCH = {"multiply_B7_L3_R5_D4", "dot_B5_L3_R1_D2", "B3_S3_E9_K2", "thr5_step2.5"}

INPUTS = {
    "ffm": ("left", "right"),
    "feature_insight": ("input", "weight"),
    "fid_counter": ("counter",),
}
GRADIENTS = {
    "ffm": ("grad_left", "grad_right"),
    "feature_insight": ("grad_input", "grad_weight"),
    "fid_counter": ("grad",),
}


def expected(case):
    return case["out"], [case[name] for name in GRADIENTS[case.group]]


def check(case, value, grads):
    """fid_counter exactly; the rest within the tolerance."""
    tolerance = {"rtol": 0, "atol": 0} if case.group == "fid_counter" else parity.TOLERANCE
    value_expected, grads_expected = expected(case)
    np.testing.assert_allclose(value, value_expected, **tolerance)
    for name, grad, grad_expected in zip(GRADIENTS[case.group], grads, grads_expected, strict=True):
        np.testing.assert_allclose(grad, grad_expected, **tolerance, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_numpy(case):
    inputs = [case[name] for name in INPUTS[case.group]]
    value = getattr(ops, case.group)(*inputs, **case.arguments)
    grad_op = getattr(ops, f"{case.group}_grad")
    if case.group == "fid_counter":  # its gradient is a rule and takes no upstream
        grads = [grad_op(*inputs, **case.arguments)]
    else:
        grads = grad_op(case["upstream"], *inputs, **case.arguments)
    assert type(value) is np.ndarray
    assert value.dtype == np.float32
    check(case, value, grads)


@pytest.mark.parametrize("case", CASES)
def test_tensors(case):
    check(case, *differentiate(case))


@pytest.mark.parametrize("case", CASES)
def test_compiled(case):
    if BACKEND == "torch" and case.name not in COMPILED_WITH_TORCH:
        pytest.skip("torch.compile takes seconds per shape: one case of each formula is compiled")
    check(case, *differentiate(case, compiled=True, fullgraph=True))


@pytest.mark.parametrize("case", parity.cases("fid_counter"))
def test_fid_counter_ignores_the_upstream(case):
    assert np.any(case["grad_zero_upstream"] != 0)
    _, (grad,) = differentiate(case, upstream=np.zeros_like(case["upstream"]))
    np.testing.assert_array_equal(grad, case["grad_zero_upstream"])


def differentiate(case, upstream=None, **how):
    """The op on backend tensors with the backend's own autodiff."""

    def call(*tensors):
        value = getattr(ops, case.group)(*tensors, **case.arguments)
        assert keras.ops.is_tensor(value)
        return value

    inputs = [case[name] for name in INPUTS[case.group]]
    return value_and_grads(call, inputs, case["upstream"] if upstream is None else upstream, **how)
