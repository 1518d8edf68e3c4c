# SPDX-License-Identifier: Apache-2.0
"""What must hold for every op on arrays of NumPy and CuPy. An op's test class inherits these."""

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
from support.libraries import Library
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
    """Tests on arrays; a subclass names the op, its gradient, examples and bad calls."""

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

    @pytest.mark.parametrize("path", ["auto", "kernels", "reference", "composition"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_path_agrees_with_the_reference(self, library, example, dtype, path):
        if not library.has(dtype):
            pytest.skip(f"{library.name} does not know {dtype}")
        for fn, arrays in self.calls(example, dtype):
            expected = reference(fn, arrays, **example.attributes)
            with mlayers.use_kernels(library.kernels if path == "kernels" else path):
                found = fn(*map(library.array, arrays), **example.attributes)
            check_results(library.numpy(found), expected, dtype)

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

    @pytest.mark.parametrize("size", [0, 1])
    def test_empty_batch_and_one_of_size_one(self, library, example, size):
        for fn, arrays in self.calls(example.with_batch(size)):
            expected = reference(fn, arrays, **example.attributes)
            found = fn(*map(library.array, arrays), **example.attributes)
            check_results(library.numpy(found), expected, "float32")

    @pytest.mark.parametrize("layout", ["strided", "reversed", "fortran", "unaligned", "swapped"])
    def test_any_memory_layout(self, library, example, layout):
        """Bit by bit in a kernel; NumPy's own products depend on the layout."""
        if library.name == "cupy" and layout == "swapped":
            pytest.skip("CuPy knows the machine's byte order alone")
        exact = chosen_path() in ("auto", library.kernels)
        tolerance = {"rtol": 0, "atol": 0} if exact else TOLERANCE["float32"]
        for fn, arrays in self.calls(example):
            made = [library.array(a) for a in arrays]
            expected = library.numpy(fn(*made, **example.attributes))
            found = fn(*(laid_out(library, a, layout) for a in arrays), **example.attributes)
            check_results(library.numpy(found), as_tuple(expected), "float32", tolerance)

    def test_read_only_inputs(self, example):
        for fn, arrays in self.calls(example):
            expected = fn(*arrays, **example.attributes)
            before = [a.copy() for a in arrays]
            for array in arrays:
                array.flags.writeable = False
            check_results(fn(*arrays, **example.attributes), expected, "float32")
            for array, copy in zip(arrays, before, strict=True):
                np.testing.assert_array_equal(array, copy)

    @pytest.mark.parametrize("path", ["kernels", "reference"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_out_is_written_and_returned(self, library, example, dtype, path):
        if not library.has(dtype):
            pytest.skip(f"{library.name} does not know {dtype}")
        for fn, arrays in self.calls(example, dtype):
            expected = as_tuple(fn(*arrays, **example.attributes))
            made = [library.array(a) for a in arrays]
            for layout in ("whole", "strided", "unaligned"):
                blank = [np.zeros(e.shape, e.dtype) for e in expected]
                outs = tuple(laid_out(library, b, layout) for b in blank)
                out = outs if len(outs) > 1 else outs[0]
                with mlayers.use_kernels(library.kernels if path == "kernels" else path):
                    found = fn(*made, **example.attributes, out=out)
                for target, result, one in zip(outs, as_tuple(found), expected, strict=True):
                    assert result is target
                    np.testing.assert_allclose(
                        library.numpy(target).astype("float64"),
                        one.astype("float64"),
                        **TOLERANCE[dtype],
                    )

    def test_out_of_the_wrong_kind_is_refused(self, library, example):
        for fn, arrays in self.calls(example):
            made = [library.array(a) for a in arrays]
            results = as_tuple(fn(*made, **example.attributes))
            wrongs = [
                (results[0].reshape((*results[0].shape, 1)), ValueError, "'out' must have shape"),
                (results[0].astype("float64"), TypeError, "'out' must have the inputs' dtype"),
                ([1.0], TypeError, f"'out' must be of the inputs' library, {library.name}"),
            ]
            if library.name == "numpy":
                read_only = np.empty_like(results[0])
                read_only.flags.writeable = False
                wrongs.append((read_only, ValueError, "'out' must be writable"))
            else:
                wrongs.append((np.zeros(1), TypeError, "'out' must be of the inputs' library"))
            for wrong, error, words in wrongs:
                out = (wrong, *results[1:]) if len(results) > 1 else wrong
                with pytest.raises(error, match=words):
                    fn(*made, **example.attributes, out=out)
            if len(results) > 1:
                with pytest.raises(TypeError, match="'out' must be a tuple of 2 arrays"):
                    fn(*made, **example.attributes, out=results[0])

    def test_two_outs_that_share_memory_are_refused(self, library, example):
        for fn, arrays in self.calls(example):
            made = [library.array(a) for a in arrays]
            results = as_tuple(fn(*made, **example.attributes))
            if len(results) > 1 and results[0].size and results[0].shape == results[1].shape:
                with pytest.raises(ValueError, match="must not share memory"):
                    fn(*made, **example.attributes, out=(results[0], results[0]))
                return
        pytest.skip("no two results of one shape")

    def test_out_may_be_an_input(self, library, example):
        tried = False
        for fn, arrays in self.calls(example):
            expected = as_tuple(fn(*arrays, **example.attributes))
            if len(expected) == 1 and expected[0].shape == arrays[0].shape:
                made = [library.array(a.copy()) for a in arrays]
                found = fn(*made, **example.attributes, out=made[0])
                assert found is made[0]
                check_results(library.numpy(found), expected, "float32")
                tried = True
        if not tried:
            pytest.skip("no result has the shape of an input")

    def test_bad_call(self, library, bad):
        if any(isinstance(v, np.ndarray) and v.dtype.hasobject for v in bad.changes.values()):
            pytest.skip("an array of objects is NumPy's alone")
        made = {name: library.array(value) for name, value in self.good.items()}
        changed = {name: library.array(value) for name, value in bad.changes.items()}
        for path in ("auto", "reference", "composition"):
            with (
                mlayers.use_kernels(path),
                pytest.raises(bad.error, match=rf"(?s)^{self.name()}: .*\. Received: ") as caught,
            ):
                type(self).function(**{**made, **changed})
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


def laid_out(library: Library, array: np.ndarray, layout: str) -> Any:
    """The same numbers in memory that a kernel could trip over."""
    if layout == "strided":
        spacious = np.zeros((*array.shape, 2), array.dtype)
        spacious[..., 0] = array
        return library.array(spacious)[..., 0]
    if layout == "reversed":
        return library.array(np.ascontiguousarray(array[::-1]))[::-1]
    if layout == "fortran":
        return library.array(np.asfortranarray(array))
    if layout == "unaligned" and library.name == "numpy":
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
        raw[:] = np.frombuffer(array.tobytes(), np.uint8)
        return raw.view(array.dtype).reshape(array.shape)
    if layout == "unaligned":  # CuPy's arrays begin where an element may, but not on 16 bytes
        return library.array(np.concatenate([array.ravel()[:1], array.ravel()]))[1:].reshape(
            array.shape
        )
    return array.astype(array.dtype.newbyteorder()) if layout == "swapped" else library.array(array)
