# SPDX-License-Identifier: Apache-2.0
"""``bench --gpu``, as cli.py asks for it: CuPy, JAX and torch on a GPU. cpu.py is its twin.

What is compared is as on the CPU (rows.py). What is different, from top to bottom:

    limits      what a row is measured against is found in the same process, by the framework's own
                calls: its memory moved and a large product. `copy` of a row is its bytes per second
                over those of the best copy, read and written; `floor` is the time that its bytes or
                its operations take at these limits, whichever is longer, over ours. Both are 1
                where nothing is left to gain.
    numbers     a block of normal numbers goes to the device once and is repeated there; the host
                never holds an array of the size of a result.
    waiting     a call only queues work. A burst is timed until the device has done all of it, so
                that the cost of a call is hidden behind the work before, as in real use.
    comparing   all numbers of all results, on the device, a piece at a time. What ours is compared
                with may be unable to run here (memory, a missing library): it is left out, with its
                error, instead of ending the command. Ours may not.

Products in float32 are computed in float32 everywhere: with TF32 results would differ by 1e-3, and
one would be compared with something cheaper. Half types use the tensor cores as they like; the peak
that `floor` knows is float32's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlayers.bench import machine, report, rows
from mlayers.bench.cases import Case, multiply
from mlayers.bench.frameworks import GPU_FRAMEWORKS
from mlayers.bench.timing import interleave
from mlayers.kernels_cu import driver
from mlayers.train.errors import CommandError

BACKENDS = tuple(GPU_FRAMEWORKS)
DTYPES = ("float32", "bfloat16")  # of the rows, unless others are asked for
ENVIRONMENT = {"CUPY_TF32": "0"}  # of a process that measures, on top of what is there
ROOF = ("copy",)  # of the picture
BLOCK = 1_000_003  # numbers of the host; prime, so that no two rows of a matrix are equal
BUFFER = 1 << 28  # float32 numbers that are copied: 1 GiB
SIDE = 8192  # of the square matrices that are multiplied
PIECE = 1 << 26  # numbers that are compared at once


def need() -> None:
    """Raise a sentence where there is no GPU that CUDA kernels can run on."""
    why = driver.why_not()
    if why:
        raise CommandError(f"bench: --gpu: {why}")


def about(seconds: float) -> dict[str, Any]:
    """The machine with its GPU, which is printed: "machine"; each backend adds to "limits"."""
    found = {**machine.describe(), "gpu": describe()}
    report.print_gpu(found["gpu"])
    return {"machine": found, "limits": {}}


def describe() -> dict[str, Any]:
    """The GPU, as CuPy sees it."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(cupy.cuda.Device().id)
    return {
        "device": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": properties["multiProcessorCount"],
        "memory_gb": properties["totalGlobalMem"] / 1e9,
        "driver": _driver(),
        "driver_cuda": _version(runtime.driverGetVersion()),  # the newest that it can run
        "cuda": _version(runtime.runtimeGetVersion()),  # that CuPy was built with
        "cupy": cupy.__version__,
        "tf32": False,
    }


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"  # 12040 is 12.4


def _driver(path: Path = Path("/proc/driver/nvidia/version")) -> str:
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", path.read_text())
    except OSError:  # not Linux, or a container that hides it
        found = None
    return found[0] if found else "not told"


def best(limits: Mapping[str, Any]) -> dict[str, Any]:
    """The best that any framework reached: "gb_per_s" by kind, and "gflops", 0 if there is none.

    Raises:
        CommandError: there are no limits, because no framework sees the GPU.
    """
    if not limits:
        raise CommandError("bench: --gpu: no framework sees the GPU")
    every = list(limits.values())
    kinds = every[0]["gb_per_s"]
    return {
        "gb_per_s": {kind: max(one["gb_per_s"][kind] for one in every) for kind in kinds},
        "gflops": max(one["gflops"] or 0.0 for one in every),
    }


class Backend:
    """What is measured of CuPy or of a framework."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.framework = GPU_FRAMEWORKS[name]()
        self.dtypes: tuple[str, ...] = self.framework.dtypes
        self.copy_gb_per_s, self.peak_gflops = math.inf, math.inf  # until `limits` has measured

    def why_not(self) -> str | None:
        """Why nothing can be measured, or None."""
        found: str | None = self.framework.why_no_gpu()
        return found

    def limits(self, seconds: float) -> dict[str, Any]:
        """GB/s of memory on the device, by what is done with it, and GFLOP/s of a product."""
        self.framework.use_full_float32("float32")
        source = self._numbers((BUFFER,), "float32")
        found = interleave(self.framework.memory_calls(source), seconds, finish=self.framework.wait)
        moved = {kind: BUFFER * 4 * (1 if kind in ("fill", "read") else 2) for kind in found}
        speed = {kind: moved[kind] / timing.median / 1e3 for kind, timing in found.items()}
        speed["copy"] = max(speed["copy"], speed.pop("negate"))  # one is a kernel, one perhaps not
        self.copy_gb_per_s = speed["copy"]
        matrix = self._numbers((SIDE, SIDE), "float32")
        calls, _ = self._able({"matmul": lambda: matrix @ matrix})  # without cuBLAS CuPy is not
        if calls:
            product = interleave(calls, min(seconds, 1.0), finish=self.framework.wait)["matmul"]
            self.peak_gflops = 2 * SIDE**3 / product.median / 1e3
        gflops = self.peak_gflops if calls else None
        return {"gb_per_s": speed, "gflops": gflops}

    def overhead(self, seconds: float) -> dict[str, float]:
        """Microseconds per call on a tiny input, by column."""
        calls, _ = self._able(self._calls(multiply(1, 1, 1, 4), "float32", "forward"))
        found = interleave(calls, seconds, finish=self.framework.wait)
        return {column: timing.median for column, timing in found.items()}

    def row(self, case: Case, dtype: str, direction: str, seconds: float) -> dict[str, Any]:
        """A row as rows.py makes it, with "copy" and "floor" among the ratios, and "left_out".

        Raises:
            RuntimeError: what is compared does not compute the same.
        """
        if self.name == "cupy" and direction != "forward":
            direction = "gradient"  # alone: nobody differentiates
        self.framework.use_full_float32(dtype)
        calls, left_out = self._able(self._calls(case, dtype, direction))
        what = f"{self.name}: {case.op} {case.sizes} {dtype} {direction}"
        self._check_equal(calls, rows.TOLERANCE[dtype], what)
        peaks = {column: self.framework.peak_memory(call) for column, call in calls.items()}
        found = interleave(calls, seconds, finish=self.framework.wait)
        medians = {column: timing.median for column, timing in found.items()}
        ours = rows.best_of_ours(medians)
        achieved = rows.achieved(case, dtype, direction, ours)
        shares = (
            achieved["gb_per_s"] / self.copy_gb_per_s,
            achieved["gflops"] / self.peak_gflops,
        )
        return {
            "framework": self.name,
            **rows.description(case, dtype, direction),
            "us": {column: asdict(timing) for column, timing in found.items()},
            "peak_bytes": peaks,
            "left_out": left_out,
            "ratio": {**rows.ratios(medians), "copy": shares[0], "floor": max(shares)},
            **achieved,
        }

    def tower(self, seconds: float) -> list[dict[str, Any]]:
        """The rows of tower.py; Keras puts it on the GPU that its backend sees."""
        if self.name == "cupy":
            return []
        try:
            from mlayers.bench import tower
        except ImportError as error:
            print(f"the tower is left out: {error}")
            return []
        self.framework.use_full_float32("float32")
        return tower.rows(self.name, seconds, self.framework)

    def _numbers(self, shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
        """Normal numbers on the device; equal ones only a whole block apart."""
        size = math.prod(shape)
        block = np.random.default_rng(seed).standard_normal(min(size, BLOCK))
        times = -(-size // len(block))
        repeated = self.framework.tile(self.framework.tensor(block, dtype), times)
        return repeated[:size].reshape(shape)

    def _calls(self, case: Case, dtype: str, direction: str) -> rows.Calls:
        """What a row compares, by column; the calls do not wait."""
        shapes = case.inputs if direction == "forward" else (case.output, *case.inputs)
        tensors = [self._numbers(shape, dtype, seed) for seed, shape in enumerate(shapes)]
        if self.name != "cupy":
            functions = rows.framework_functions(self.framework, case, direction)
            return {column: partial(function, *tensors) for column, function in functions.items()}
        calls = rows.array_calls("cupy", case, tensors, direction)
        if "cupy" not in calls:
            calls["composed"] = partial(rows.composed(case.grad), *tensors)
        return calls

    def _able(self, calls: rows.Calls) -> tuple[rows.Calls, dict[str, str]]:
        """The calls that can run here, and of the others the errors. All of ours must."""
        errors = {}
        for column, call in calls.items():
            try:
                self.framework.wait(call())
            except Exception as error:  # of any library: memory, a compiler, a missing file
                if column.startswith("ours"):
                    raise
                errors[column] = f"{type(error).__name__}: {error}".splitlines()[0]
                print(f"'{column}' cannot run here and is left out: {errors[column]}")
        return {column: call for column, call in calls.items() if column not in errors}, errors

    def _check_equal(self, calls: rows.Calls, tolerance: float, what: str) -> None:
        """What is compared must compute the same, or the comparison is worth nothing."""
        expected = list(rows.flat(calls["ours"]()))
        for column, call in calls.items():
            if column == "ours":
                continue
            pairs = zip(rows.flat(call()), expected, strict=True)
            if not all(equal(*pair, tolerance) for pair in pairs):
                raise RuntimeError(f"bench: {what}: '{column}' and 'ours' differ")


def equal(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two tensors are equal up to `tolerance` times the largest number; NaN never is."""
    if tuple(one.shape) != tuple(other.shape):
        return False
    one, other = (getattr(t, "detach", lambda t=t: t)() for t in (one, other))  # torch's history
    rows_at_once = max(1, PIECE // max(1, math.prod(one.shape[1:])))
    for first in range(0, len(one), rows_at_once):
        a, b = one[first : first + rows_at_once], other[first : first + rows_at_once]
        if not float(abs(a - b).max()) <= tolerance * max(1.0, float(abs(b).max())):
            return False
    return True
