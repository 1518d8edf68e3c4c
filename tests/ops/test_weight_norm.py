# SPDX-License-Identifier: Apache-2.0
"""weight_norm: the columns of a kernel scaled to given lengths, on every path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlayers import use_kernels, weight_norm, weight_norm_grad
from support.array_checks import check_results, reference
from support.op_examples import Bad, Example, bad_arrays, bad_ranks
from support.tensor_checks import TensorChecks


def example(name, input_dim, units):
    return Example(name, {"kernel": (input_dim, units), "norm": (units,)})


GOOD = {"kernel": np.ones((4, 3), "float32"), "norm": np.ones(3, "float32")}


class TestWeightNorm(TensorChecks):
    function, gradient = weight_norm, weight_norm_grad
    examples = [
        example("small", 4, 3),
        example("one_unit", 5, 1),
        example("one_row", 1, 4),
    ]
    good = GOOD
    bad_calls = [
        *bad_arrays(GOOD),
        *bad_ranks(GOOD, "kernel"),
        *(
            Bad(f"norm_shape_{'x'.join(map(str, shape))}", {"norm": np.ones(shape, "f")},
                ValueError, "'norm' must have one length for each column of 'kernel'")
            for shape in ((4,), (1,), (1, 3), ())
        ),
    ]  # fmt: skip


def test_columns_get_their_lengths():
    kernel = np.random.default_rng(0).standard_normal((50, 7)).astype("f")
    norm = np.arange(-3, 4).astype("f")
    scaled = weight_norm(kernel, norm)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=0), np.abs(norm), rtol=1e-6)
    assert ((scaled * kernel).sum(0) * norm >= 0).all()  # along the column, or against it


@pytest.mark.parametrize("path", ["cython", "reference", "composition"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_column_of_zeros(path, dtype):
    """It stays zero, and its gradient is that of a column divided by the epsilon's root."""
    kernel, norm = np.zeros((3, 2), dtype), np.array([2, 0], dtype)
    grad = np.array([[1, 1], [2, 2], [3, 3]], dtype)
    with use_kernels(path), np.errstate(all="raise"):
        out = weight_norm(kernel, norm)
        kernel_grad, norm_grad = weight_norm_grad(grad, kernel, norm)
    assert out.tolist() == [[0, 0]] * 3
    assert norm_grad.tolist() == [0, 0]
    np.testing.assert_allclose(kernel_grad, grad * 1000 * norm, rtol=1e-6)


@pytest.mark.parametrize("path", ["cython", "reference", "composition"])
def test_short_column_is_divided_by_the_epsilons_root(path):
    kernel, grad = np.array([[3e-4], [4e-4]]), np.array([[1.0], [1.0]])
    with use_kernels(path):
        out = weight_norm(kernel, np.ones(1))
        kernel_grad, norm_grad = weight_norm_grad(grad, kernel, np.ones(1))
    np.testing.assert_allclose(out, kernel * 1000, rtol=1e-12)
    np.testing.assert_allclose(kernel_grad, grad * 1000, rtol=1e-12)  # nothing along the column
    np.testing.assert_allclose(norm_grad, [0.7], rtol=1e-12)


@pytest.mark.parametrize("path", ["cython", "reference", "composition"])
def test_nan_and_infinity_stay_in_their_column(path):
    kernel = np.array([[1, np.nan, np.inf], [1, 1, 1]])
    with use_kernels(path), np.errstate(invalid="ignore"):
        out = weight_norm(kernel, np.ones(3))
        kernel_grad, norm_grad = weight_norm_grad(np.ones((2, 3)), kernel, np.ones(3))
    np.testing.assert_array_equal(np.isnan(out), [[False, True, True], [False, True, False]])
    assert np.isnan(kernel_grad[:, 1]).all()
    assert np.isfinite(kernel_grad[:, 0]).all()
    assert np.isnan(norm_grad[1])


@given(st.integers(0, 70), st.integers(0, 150))
@settings(max_examples=40, deadline=None)
def test_any_shape(input_dim, units):
    # Numbers away from 0: where one alone makes a column's length, it divides rounding errors.
    kernel, norm = np.cos(np.arange(input_dim * units)).reshape(input_dim, units), np.ones(units)
    arrays = [a.astype("f") for a in (np.sin(kernel), kernel + 2, norm)]
    expected = reference(weight_norm, arrays[1:])
    check_results(weight_norm(*arrays[1:]), expected, "float32")
    check_results(weight_norm_grad(*arrays), reference(weight_norm_grad, arrays), "float32")


@pytest.mark.parametrize(("input_dim", "units"), [(512, 512), (5000, 300), (3, 70_000), (3000, 1)])
def test_larger_than_a_panel_and_for_threads(input_dim, units):
    grad, kernel = np.random.default_rng(0).uniform(0.5, 1.5, (2, input_dim, units)).astype("f")
    # Long, so that no result is small against the tolerance, however many rows a length is of.
    norm = np.linspace(1, 2, units, dtype="f") * np.float32(input_dim**0.5)
    expected = reference(weight_norm, [kernel, norm])
    check_results(weight_norm(kernel, norm), expected, "float32")
    grads = weight_norm_grad(grad, kernel, norm)
    expected = reference(weight_norm_grad, [grad, kernel, norm])
    check_results(grads, expected, "float32", {"rtol": 1e-5, "atol": 2e-5})


def test_out_over_the_kernel():
    kernel, norm = np.array([[3.0], [4.0]]), np.array([10.0])
    assert weight_norm(kernel, norm, out=kernel) is kernel
    np.testing.assert_allclose(kernel, [[6], [8]])


def test_grad_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"'grad' must be shaped as the output of weight_norm"):
        weight_norm_grad(np.ones((4, 2), "f"), **GOOD)


def test_gradient_is_across_the_column():
    """Along its own direction a column's length does not matter, so that gradient is 0 there."""
    kernel, norm, grad = np.random.default_rng(0).standard_normal((3, 6, 6))
    kernel_grad, _ = weight_norm_grad(grad, kernel, norm[0])
    np.testing.assert_allclose((kernel_grad * kernel).sum(0), np.zeros(6), atol=1e-12)
    expected = reference(weight_norm_grad, [grad, kernel, norm[0]])
    check_results(weight_norm_grad(grad, kernel, norm[0]), expected, "float64")
