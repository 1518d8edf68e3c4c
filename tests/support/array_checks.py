# SPDX-License-Identifier: Apache-2.0
"""What must hold for every op on NumPy arrays. An op's test class inherits these tests."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mlayers.cython_cpu import core

import mlayers
from mlayers.config import chosen_path
from mlayers.op import OPS, Op
from support.op_examples import DTYPES, TOLERANCE, Bad, Example


def reference(fn: Callable[..., Any], arrays: list[np.ndarray], **attributes: Any) -> Any:
    """The float64 reference on the same numbers."""
    with mlayers.use_kernels("reference"):
        return fn(*(a.astype(np.float64) for a in arrays), **attributes)


def as_tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def check_results(found: Any, expected: Any, dtype: str, tolerance: Any = None) -> None:
    for one, other in zip(as_tuple(found), as_tuple(expected), strict=True):
        assert isinstance(one, np.ndarray)
        assert one.dtype == DTYPES[dtype]
        assert one.shape == other.shape
        np.testing.assert_allclose(one.astype(np.float64), other, **(tolerance or TOLERANCE[dtype]))


def check_op_and_gradient(
    fn: Callable[..., Any], gradient: Callable[..., Any], example: Example, tolerance: Any
) -> None:
    """An op and its gradient on an example in float32, against the reference."""
    arrays = example.arrays()
    out = fn(*arrays, **example.attributes)
    check_results(out, reference(fn, arrays, **example.attributes), "float32", tolerance)
    arrays = [np.cos(out), *arrays]
    expected = reference(gradient, arrays, **example.attributes)
    check_results(gradient(*arrays, **example.attributes), expected, "float32", tolerance)


class ArrayChecks:
    """Tests on NumPy arrays; a subclass names the op, its gradient, examples and bad calls."""

    function: Callable[..., Any]
    gradient: Callable[..., Any]
    examples: list[Example]
    bad_calls: list[Bad]
    good: dict[str, Any]  # all arguments of a good call, from which `bad_calls` differ
    gradient_takes_upstream = True

    def gradient_arguments(self, example: Example, dtype: str = "float32") -> list[np.ndarray]:
        """The inputs of the gradient op: an upstream gradient first, where it takes one."""
        arrays = example.arrays(dtype)
        if not self.gradient_takes_upstream:
            return arrays
        output = type(self).function(*arrays, **example.attributes)
        upstream = np.random.default_rng(9).standard_normal(output.shape)
        return [upstream.astype(DTYPES[dtype]), *arrays]

    def calls(self, example: Example, dtype: str = "float32") -> list[tuple[Any, list[np.ndarray]]]:
        """The op and its gradient with their inputs."""
        return [
            (type(self).function, example.arrays(dtype)),
            (type(self).gradient, self.gradient_arguments(example, dtype)),
        ]

    @pytest.mark.parametrize("path", ["auto", "cython", "reference", "composition"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_path_agrees_with_the_reference(self, example, dtype, path):
        for fn, arrays in self.calls(example, dtype):
            expected = reference(fn, arrays, **example.attributes)
            with mlayers.use_kernels(path):
                found = fn(*arrays, **example.attributes)
            check_results(found, expected, dtype)

    def test_gradient_agrees_with_finite_differences(self, example):
        arrays = self.gradient_arguments(example, "float64")
        upstream, *inputs = arrays if self.gradient_takes_upstream else (None, *arrays)
        if upstream is None:
            pytest.skip("the gradient is a rule, not a derivative: the op's own tests hold it")
        grads = type(self).gradient(*arrays, **example.attributes)
        for position, grad in enumerate(grads):
            expected = np.zeros_like(grad)
            for index in np.ndindex(grad.shape):
                values = []
                for shift in (1e-6, -1e-6):
                    moved = [a.copy() for a in inputs]
                    moved[position][index] += shift
                    out = type(self).function(*moved, **example.attributes)
                    values.append((out * upstream).sum())
                expected[index] = (values[0] - values[1]) / 2e-6
            np.testing.assert_allclose(grad, expected, rtol=1e-6, atol=1e-7)

    def test_empty_batch(self, example):
        for fn, arrays in self.calls(example.with_batch(0)):
            expected = reference(fn, arrays, **example.attributes)
            check_results(fn(*arrays, **example.attributes), expected, "float32")

    def test_size_one_batch(self, example):
        for fn, arrays in self.calls(example.with_batch(1)):
            expected = reference(fn, arrays, **example.attributes)
            check_results(fn(*arrays, **example.attributes), expected, "float32")

    @pytest.mark.parametrize("layout", ["strided", "reversed", "fortran", "unaligned", "swapped"])
    def test_any_memory_layout(self, example, layout):
        """Bit by bit in a kernel; NumPy's own products depend on the layout."""
        exact = chosen_path() in ("auto", "cython")
        tolerance = {"rtol": 0, "atol": 0} if exact else TOLERANCE["float32"]
        for fn, arrays in self.calls(example):
            expected = fn(*arrays, **example.attributes)
            found = fn(*(laid_out(a, layout) for a in arrays), **example.attributes)
            check_results(found, as_tuple(expected), "float32", tolerance)

    def test_read_only_inputs(self, example):
        for fn, arrays in self.calls(example):
            expected = fn(*arrays, **example.attributes)
            before = [a.copy() for a in arrays]
            for array in arrays:
                array.flags.writeable = False
            check_results(fn(*arrays, **example.attributes), expected, "float32")
            for array, copy in zip(arrays, before, strict=True):
                np.testing.assert_array_equal(array, copy)

    @pytest.mark.parametrize("path", ["cython", "reference"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_out_is_written_and_returned(self, example, dtype, path):
        for fn, arrays in self.calls(example, dtype):
            expected = as_tuple(fn(*arrays, **example.attributes))
            for make in (np.empty, lambda *a: laid_out(np.empty(*a), "strided")):
                outs = tuple(make(e.shape, e.dtype) for e in expected)
                out = outs if len(outs) > 1 else outs[0]
                with mlayers.use_kernels(path):
                    found = fn(*arrays, **example.attributes, out=out)
                for target, result, one in zip(outs, as_tuple(found), expected, strict=True):
                    assert result is target
                    np.testing.assert_allclose(
                        target.astype("float64"), one.astype("float64"), **TOLERANCE[dtype]
                    )

    def test_out_of_the_wrong_kind_is_refused(self, example):
        for fn, arrays in self.calls(example):
            results = as_tuple(fn(*arrays, **example.attributes))
            read_only = np.empty_like(results[0])
            read_only.flags.writeable = False
            for wrong, error, words in (
                (np.empty((*results[0].shape, 1), "float32"), ValueError, "'out' must have shape"),
                (results[0].astype("float64"), TypeError, "'out' must have the inputs' dtype"),
                (results[0].tolist(), TypeError, "'out' must be of the inputs' library"),
                (read_only, ValueError, "'out' must be writable"),
            ):
                out = (wrong, *results[1:]) if len(results) > 1 else wrong
                with pytest.raises(error, match=words):
                    fn(*arrays, **example.attributes, out=out)
            if len(results) > 1:
                with pytest.raises(TypeError, match="'out' must be a tuple of 2 arrays"):
                    fn(*arrays, **example.attributes, out=results[0])

    def test_bad_call(self, bad):
        for path in ("auto", "reference", "composition"):
            with (
                mlayers.use_kernels(path),
                pytest.raises(bad.error, match=rf"(?s)^{self.name()}: .*\. Received: ") as caught,
            ):
                type(self).function(**{**self.good, **bad.changes})
            assert bad.words in str(caught.value)

    def test_kernel_knows_the_shapes(self, example):
        """The kernel's own rule, which guards calls in compiled graphs, is the front door's."""
        for size in (0, 1, 5):
            for fn, arrays in self.calls(example.with_batch(size)):
                op = OPS[fn.__name__]
                shapes = tuple(a.shape for a in arrays)
                values = self.checked(op, example.attributes)
                expected = op.shapes(*shapes, **op.named(values))
                assert core().output_shapes(op.name, shapes, *op.encode(values)) == expected
                # One axis more, one column or row more or less: refused alike.
                for i, shape in enumerate(shapes):
                    for wrong in wrong_shapes(shape):
                        changed = (*shapes[:i], wrong, *shapes[i + 1 :])
                        found = core().output_shapes(op.name, changed, *op.encode(values))
                        try:
                            expected = op.shapes(*changed, **op.named(values))
                        except ValueError:
                            expected = None
                        assert found == expected, changed

    def test_kernel_refuses_too_few_arguments(self, example):
        for fn, arrays in self.calls(example):
            op = OPS[fn.__name__]
            ints, floats = op.encode(self.checked(op, example.attributes))
            shapes = tuple(a.shape for a in arrays)
            assert core().output_shapes(op.name, shapes[1:], ints, floats) is None
            assert core().output_shapes(op.name, shapes, ints, (*floats, 1.0)) is None

    def checked(self, op: Op, attributes: dict[str, Any]) -> tuple[Any, ...]:
        defaults = inspect.signature(type(self).function).parameters
        return tuple(
            a.check(op.name, attributes.get(a.name, defaults[a.name].default))
            for a in op.attributes
        )

    @classmethod
    def name(cls) -> str:
        return cls.function.__name__


def wrong_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes near a right one, some of which may be right too."""
    near = [(*shape, 1), shape[1:]]
    for axis, size in enumerate(shape):
        near += [(*shape[:axis], s, *shape[axis + 1 :]) for s in (size - 1, size + 1) if s >= 0]
    return near


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The same numbers in memory that a kernel could trip over."""
    if layout == "strided":
        spacious = np.zeros((*array.shape, 2), array.dtype)
        spacious[..., 0] = array
        return spacious[..., 0]
    if layout == "reversed":
        return np.ascontiguousarray(array[::-1])[::-1]
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "unaligned":
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
        raw[:] = np.frombuffer(array.tobytes(), np.uint8)
        return raw.view(array.dtype).reshape(array.shape)
    return array.astype(array.dtype.newbyteorder())
