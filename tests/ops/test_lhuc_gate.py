# SPDX-License-Identifier: Apache-2.0
"""lhuc_gate: hidden units times twice the sigmoid of their logits, on every path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlayers import lhuc_gate, lhuc_gate_grad, use_kernels
from support.array_checks import check_results, reference
from support.op_examples import Bad, Example, bad_arrays
from support.tensor_checks import TensorChecks
from support.tensors import COMPILERS, compiler, to_array, to_tensor

GOOD = {"hidden": np.ones((4, 3), "float32"), "logits": np.ones((4, 3), "float32")}


def example(name, shape):
    shapes = {"hidden": shape, "logits": shape}
    return Example(name, shapes, batched=("hidden", "logits"))


class TestLhucGate(TensorChecks):
    function, gradient = lhuc_gate, lhuc_gate_grad
    examples = [example("rank_2", (3, 4)), example("rank_1", (5,)), example("rank_3", (2, 3, 2))]
    good = GOOD
    bad_calls = [
        *bad_arrays(GOOD),
        *(
            Bad(f"logits_shape_{len(shape)}d", {"logits": np.ones(shape, "f")}, ValueError,
                "'hidden' and 'logits' must have the same shape")
            for shape in ((4, 1), (3,), (4, 3, 1), ())
        ),
    ]  # fmt: skip


def test_formula_by_hand():
    hidden = np.array([2, 2, 2], "float32")
    logits = np.array([0, np.log(3), -np.log(3)], "float32")
    np.testing.assert_allclose(lhuc_gate(hidden, logits), [2, 3, 1], rtol=1e-6)


@pytest.mark.parametrize("path", ["cython", "reference", "composition"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_logits_saturate_without_warning(path, dtype):
    logits = np.array([-1e30, -1000, -90, 90, 1000, 1e30], dtype)
    hidden = np.ones_like(logits)
    with use_kernels(path), np.errstate(all="raise", under="ignore"):
        out = lhuc_gate(hidden, logits)
        grads = lhuc_gate_grad(hidden, hidden, logits)
    np.testing.assert_allclose(out, [0, 0, 0, 2, 2, 2], atol=1e-30)
    np.testing.assert_allclose(grads[0], out, atol=1e-30)
    np.testing.assert_allclose(grads[1], np.zeros(6), atol=1e-30)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradient_keeps_its_digits_where_the_gate_is_open(dtype):
    """In the kernel: 1 - sigmoid is 0 in float32 from 17 on, and has few digits at 10."""
    logits = np.array([-20, -5, 5, 10, 14, 17, 20], dtype)
    ones = np.ones_like(logits)
    with use_kernels("cython"):
        found = lhuc_gate_grad(ones, ones, logits)[1]
    np.testing.assert_allclose(found, reference(lhuc_gate_grad, [ones, ones, logits])[1], rtol=1e-6)


@pytest.mark.parametrize("compile_with", [None, *COMPILERS])
def test_small_halves_are_not_0(backend, compile_with):
    """As floats they are subnormal, which XLA and TensorFlow have the processor take for 0."""
    hidden = np.geomspace(6e-8, 1e-4, 13).astype("float16")  # no multiple of what a vector holds
    run = compiler(compile_with)(lhuc_gate) if compile_with else lhuc_gate
    with use_kernels("auto"):
        found = run(to_tensor(hidden), to_tensor(np.zeros_like(hidden)))
    np.testing.assert_array_equal(to_array(found), hidden)


def test_in_place():
    hidden, logits = np.array([1, 2], "float32"), np.array([0, 100], "float32")
    assert lhuc_gate(hidden, logits, out=hidden) is hidden
    assert hidden.tolist() == [1, 4]


@given(
    hnp.arrays(
        "float32", hnp.array_shapes(min_dims=0, min_side=0), elements=st.floats(-30, 30, width=32)
    )
)
@settings(max_examples=60, deadline=None)
def test_any_shape(logits):
    hidden = np.asarray(np.cos(logits))
    check_results(lhuc_gate(hidden, logits), reference(lhuc_gate, [hidden, logits]), "float32")
    arrays = [np.asarray(np.sin(logits)), hidden, logits]
    check_results(lhuc_gate_grad(*arrays), reference(lhuc_gate_grad, arrays), "float32")


def test_large_enough_for_threads():
    arrays = [a.astype("f") for a in np.random.default_rng(0).standard_normal((3, 1_100_000))]
    expected = reference(lhuc_gate_grad, arrays)
    check_results(lhuc_gate_grad(*arrays), expected, "float32")


def test_grad_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"'grad' must be shaped as the output of lhuc_gate"):
        lhuc_gate_grad(np.ones((4, 2), "f"), **GOOD)
