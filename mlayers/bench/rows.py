# SPDX-License-Identifier: Apache-2.0
"""A row of the bench: one case in one framework, beside everything it is compared with.

A row is a dict that can be written as JSON. Ratios are the other's time over ours: above 1 ours is
faster. `eager` and `compiled` compare like with like, `best` the fastest of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

import mlayers
from mlayers.bench import machine
from mlayers.bench.cases import Case
from mlayers.bench.frameworks import Torch
from mlayers.bench.programs import twins
from mlayers.bench.timing import interleave
from mlayers.cython_cpu import core

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-4, "float64": 1e-10}

Calls = dict[str, Callable[[], Any]]


def framework_row(
    framework: Any, name: str, case: Case, dtype: str, direction: str, seconds: float
) -> dict[str, Any]:
    """Ours and the composition, eager and by each of the framework's compilers."""
    functions = framework_functions(framework, case, direction)
    tensors = [framework.tensor(array, dtype) for array in _arrays(case, direction)]
    calls = _calls(framework, functions, tensors)
    results = {column: _numbers(call()) for column, call in calls.items()}
    _check_equal(results, TOLERANCE[dtype], f"{name}: {case.op} {case.sizes} {direction}")
    peaks = {column: machine.peak_memory(call) for column, call in calls.items()}
    size = int(np.prod(case.output)) * ITEMSIZE[dtype] // 4
    floors: Calls = {"fill fresh": machine.fresh_fill(size)}
    floors.update(machine.best_fill(np.empty(size, "float32")))
    if direction != "forward":
        floors["read"] = machine.memory_call(machine.READ, np.ones(size, "float32"))
        if name == "torch":
            least = least_of_autograd(*tensors)
            floors["least of autograd"] = partial(_call, framework, least, tensors)
    same = twins(framework, functions, tensors)
    timed = {column: call for column, call in calls.items() if column not in same}
    found = interleave({**timed, **floors}, seconds)
    found |= {column: found[twin] for column, twin in same.items()}
    medians = {column: found[column].median for column in calls}
    return {
        "framework": name,
        **description(case, dtype, direction),
        "us": {column: asdict(timing) for column, timing in found.items()},
        "same_program": same,
        "peak_bytes": peaks,
        "ratio": ratios(medians),
        **achieved(case, dtype, direction, best_of_ours(medians)),
    }


def least_of_autograd(upstream: Any, *inputs: Any) -> Any:
    """From (upstream, *inputs) to results of the right sizes: all is read, all filled, and no more.

    No op that autograd knows of can take less in eager torch. The results' memory is used again.
    """
    import torch

    out, grads = torch.empty_like(upstream), [torch.empty_like(tensor) for tensor in inputs]

    class Least(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            ctx.save_for_backward(*inputs)
            for tensor in inputs:
                tensor.sum()
            return out.detach().fill_(1)

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            _ = ctx.saved_tensors
            upstream.sum()
            return tuple([grad.detach().fill_(1) for grad in grads])

    return Torch().with_gradient(Least.apply)


def framework_calls(framework: Any, case: Case, dtype: str, direction: str) -> Calls:
    """The calls that a row compares, by column; each waits for its result."""
    functions = framework_functions(framework, case, direction)
    tensors = [framework.tensor(array, dtype) for array in _arrays(case, direction)]
    return _calls(framework, functions, tensors)


def _calls(framework: Any, functions: dict[str, Any], tensors: list[Any]) -> Calls:
    return {
        name: partial(_call, framework, function, tensors) for name, function in functions.items()
    }


def framework_functions(framework: Any, case: Case, direction: str) -> dict[str, Any]:
    """The functions that a row compares, by column: "ours", "composed", "ours jax.jit", and so on.

    They take the inputs, and before them an upstream gradient unless `direction` is `"forward"`.
    """
    framework.start_row()
    forward = {"ours": case.ours, "composed": composed(case.ours)}
    functions: dict[str, Any] = {}
    for name, function in forward.items():
        if direction != "forward":
            function = framework.with_gradient(function)
        if name == "composed":  # the gradient too, which may be asked for later
            function = _Composed(function, framework)
        functions[name] = function
    for compiler in framework.compilers:
        for name in forward:
            function = functions[name]
            functions[f"{name} {compiler}"] = (
                function.compile(compiler)
                if isinstance(function, _Composed)
                else framework.compile(function, compiler)
            )
    return functions


class _Composed:
    """A function under the composition, whenever it is traced, run or differentiated."""

    def __init__(self, function: Any, framework: Any) -> None:
        self.function, self.framework = function, framework

    def __call__(self, *tensors: Any) -> Any:
        with mlayers.use_kernels("composition"):
            return self.function(*tensors)

    def compile(self, compiler: str) -> _Composed:
        return _Composed(self.framework.compile(self.function, compiler), self.framework)


def composed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under the composition."""

    def run(*tensors: Any) -> Any:
        with mlayers.use_kernels("composition"):
            return function(*tensors)

    return run


def _call(framework: Any, function: Any, tensors: list[Any]) -> Any:
    result = function(*tensors)
    framework.wait(result)
    return result


def numpy_row(case: Case, dtype: str, direction: str, seconds: float) -> dict[str, Any]:
    """Ours, into fresh memory and with `out=`, beside what a NumPy user would write."""
    arrays = [array.astype(np.dtype(dtype)) for array in _arrays(case, direction)]
    calls = array_calls("numpy", case, arrays, direction)
    results = {column: _numbers(call()) for column, call in calls.items()}
    _check_equal(results, TOLERANCE[dtype], f"numpy: {case.op} {case.sizes} {direction}")
    floors = machine.best_fill(
        np.empty(int(np.prod(case.output)) * ITEMSIZE[dtype] // 4, "float32")
    )
    if direction != "forward":  # the upstream, where it lies
        floors = {"read": machine.memory_call(machine.READ, arrays[0].reshape(-1).view("float32"))}
    peaks = {column: machine.peak_memory(call) for column, call in calls.items()}
    found = interleave({**calls, **floors}, seconds)
    ours = found["ours out="].median
    floor = min(found[name].median for name in floors)
    return {
        "framework": "numpy",
        **description(case, dtype, direction),
        "us": {column: asdict(timing) for column, timing in found.items()},
        "peak_bytes": peaks,
        "ratio": {
            "best": ratios({column: found[column].median for column in calls})["best"],
            "floor": floor / ours,
            **{name: found[name].median / ours for name in floors},
        },
        **achieved(case, dtype, direction, ours),
    }


def array_calls(library: str, case: Case, arrays: list[Any], direction: str) -> Calls:
    """What a row of NumPy or CuPy compares: ours, ours into `out=`, and the library's own.

    The last has the library's name, and is missing where nobody would write such a gradient.
    """
    function: Any = case.ours
    plain: Any = case.numpy
    if direction != "forward":
        function, plain = case.grad, case.numpy_grad
    out = function(*arrays)
    for part in flat(out):
        part.fill(np.nan)  # until a call writes it
    calls: Calls = {
        "ours": lambda: function(*arrays),
        "ours out=": lambda: function(*arrays, out=out),
    }
    if plain is not None:
        calls[library] = lambda: plain(*arrays)
    return calls


def overhead(framework: Any, seconds: float) -> dict[str, float]:
    """What one call costs besides the arithmetic: four multiplications take no time."""
    from mlayers.bench.cases import multiply

    calls = framework_calls(framework, multiply(1, 1, 1, 4), "float32", "forward")
    arrays = tuple(np.ones((1, 4), "float32") for _ in range(3))
    kernel = core().Prepared("ffm", "float32", (4, 0), ())
    calls["bare kernel"] = partial(kernel.run, arrays[:2], arrays[2:])
    return {name: timing.median for name, timing in interleave(calls, seconds).items()}


def _arrays(case: Case, direction: str) -> list[np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    shapes = case.inputs if direction == "forward" else (case.output, *case.inputs)
    return [generator.standard_normal(shape) for shape in shapes]


def _numbers(result: Any) -> list[np.ndarray[Any, Any]]:
    """The arrays of a result as float64; those of torch know that they were differentiated."""
    return [_number(array) for array in flat(result)]


def _number(array: Any) -> np.ndarray[Any, Any]:
    if hasattr(array, "detach"):
        array = array.detach().double()
    return np.asarray(array).astype("float64")


def flat(result: Any) -> Iterator[Any]:
    """The arrays of a result, which may be tuples in tuples."""
    if isinstance(result, tuple | list):
        for part in result:
            yield from flat(part)
    else:
        yield result


def _check_equal(results: dict[str, Any], tolerance: float, what: str) -> None:
    """What is compared must compute the same, or the comparison is worth nothing."""
    expected = results["ours"]
    for column, found in results.items():
        for one, other in zip(found, expected, strict=True):
            scale = max(1.0, float(np.abs(other).max(initial=0)))
            if not np.allclose(one, other, rtol=tolerance, atol=tolerance * scale):
                raise RuntimeError(f"bench: {what}: '{column}' and 'ours' differ")


def ratios(medians: Mapping[str, float]) -> dict[str, float | None]:
    """The others' time over ours, by what is compared; None where there is nothing to compare.

    Args:
        medians: microseconds by column. Names of ours begin with "ours"; a compiler's name, or
            "out=", follows after a space.
    """

    def ratio(keep: Callable[[str], bool]) -> float | None:
        ours = [t for c, t in medians.items() if keep(c) and c.startswith("ours")]
        others = [t for c, t in medians.items() if keep(c) and not c.startswith("ours")]
        return min(others) / min(ours) if ours and others else None

    return {
        "eager": ratio(lambda column: " " not in column),
        "compiled": ratio(lambda column: " " in column),
        "best": ratio(lambda column: True),
    }


def best_of_ours(medians: Mapping[str, float]) -> float:
    """The shortest time of ours."""
    return min(median for column, median in medians.items() if column.startswith("ours"))


def description(case: Case, dtype: str, direction: str) -> dict[str, Any]:
    """What a row is about."""
    return {"op": case.op, "shape": list(case.sizes), "dtype": dtype, "direction": direction}


def achieved(case: Case, dtype: str, direction: str, microseconds: float) -> dict[str, Any]:
    """Bytes and operations of a row, and what came of them in a second."""
    moved = case.bytes_moved(direction, ITEMSIZE[dtype])
    operations = case.operations(direction)
    return {
        "bytes": moved,
        "flops": operations,
        "gb_per_s": moved / microseconds / 1e3,
        "gflops": operations / microseconds / 1e3,
    }
