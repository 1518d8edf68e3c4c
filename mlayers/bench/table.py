# SPDX-License-Identifier: Apache-2.0
"""``python -m mlayers bench``: the kernels beside the composition, framework by framework.

Every figure of a row is taken in turns with the others, after warm-up, so that a busy machine
disturbs them alike; medians are printed. A ratio is the best composition over the best of ours.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import mlayers
from mlayers import op as declarations
from mlayers.bench.frameworks import FRAMEWORKS
from mlayers.bridges import native
from mlayers.cython_cpu import core
from mlayers.train.errors import CommandError

SHAPES = ((64, 10, 12, 4), (1024, 10, 12, 16), (8192, 16, 16, 16))  # (B, L, R, D)
TINY = (1, 1, 1, 4)
INT_TYPES = ("multiply", "dot")

Timed = dict[str, Callable[[], Any]]


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "bench", help="time the kernels beside the composition, in every installed framework"
    )
    parser.add_argument(
        "--backend",
        default=",".join(native.FRAMEWORKS),
        help="frameworks, separated by commas; those not installed are left out (default: all)",
    )
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="time to spend on a row (default: 1.5)"
    )
    parser.add_argument(
        "--shape",
        action="append",
        type=_shape,
        metavar="B,L,R,D",
        help="batch, left fields, right fields, dimension; may be repeated (default: three sizes)",
    )
    parser.set_defaults(run=run)


def _shape(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split(","))
    if len(sizes) != 4 or min(sizes) < 1:
        raise ValueError(text)
    return sizes


def run(arguments: argparse.Namespace) -> int:
    """Time each framework in a process of its own."""
    chosen = arguments.backend.split(",")
    unknown = sorted(set(chosen) - set(native.FRAMEWORKS))
    if unknown:
        raise CommandError(
            f"bench: --backend must name {', '.join(native.FRAMEWORKS)}. "
            f"Received: {', '.join(unknown)}"
        )
    installed = [name for name in chosen if importlib.util.find_spec(name)]
    if not installed:
        raise CommandError(f"bench: none of {', '.join(chosen)} is installed")
    if len(installed) == 1 and os.environ.get("KERAS_BACKEND") == installed[0]:
        _bench(installed[0], arguments.shape or SHAPES, arguments.seconds)
        return 0
    options = ["--seconds", str(arguments.seconds)]
    for shape in arguments.shape or ():
        options += ["--shape", ",".join(map(str, shape))]
    for name in installed:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mlayers", "bench", "--backend", name, *options],
            env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "KERAS_BACKEND": name},
            check=False,
        )
        if done.returncode:
            return done.returncode
    return 0


def _bench(backend: str, shapes: Sequence[tuple[int, ...]], seconds: float) -> None:
    framework = FRAMEWORKS[backend]()
    module = importlib.import_module(backend)
    print(
        f"\n{backend} {module.__version__} on {platform.machine()}, {os.cpu_count()} cores", end=""
    )
    print(f", {mlayers.get_num_threads()} kernel threads; float32, median µs per call")
    print(f"bridge: {native.state(backend)}")
    _print_overhead(framework, seconds)
    columns = ("ours", "ours compiled", "composed", *framework.compilers)
    print(
        f"\n{'ffm':<9}{'(B, L, R, D)':<20}{'direction':<18}", *(f"{c:>14}" for c in columns), end=""
    )
    print(f"{'ratio':>8}")
    for shape in shapes:
        for int_type in INT_TYPES:
            for direction in ("forward", "forward+backward"):
                calls = _row(framework, shape, int_type, direction)
                found = interleave(calls, seconds)
                ours = min(found["ours"], found["ours compiled"])
                ratio = min(t for name, t in found.items() if not name.startswith("ours")) / ours
                times = (f"{found[c]:>14.1f}" for c in columns)
                print(
                    f"{int_type:<9}{shape!s:<20}{direction:<18}",
                    *times,
                    f"{ratio:>7.2f}",
                    flush=True,
                )


def _row(framework: Any, shape: tuple[int, ...], int_type: str, direction: str) -> Timed:
    """The calls that a row compares, by column."""
    B, L, R, D = shape
    framework.start_row()
    generator = np.random.default_rng(0)
    left = framework.tensor(generator.standard_normal((B, L * D), "float32"))
    right = framework.tensor(generator.standard_normal((B, R * D), "float32"))
    functions = {
        "ours": lambda a, b: mlayers.ffm(a, b, D, int_type),
        "composed": lambda a, b: _composed("ffm", (a, b), (D, int_type)),
    }
    tensors: tuple[Any, ...] = (left, right)
    if direction == "forward+backward":
        width = L * R * (D if int_type == "multiply" else 1)
        upstream = framework.tensor(generator.standard_normal((B, width), "float32"))
        functions = {name: framework.with_gradient(f) for name, f in functions.items()}
        tensors = (left, right, upstream)
    compiled = {"ours compiled": framework.compile(functions["ours"], framework.ours_compiler)}
    for name in framework.compilers:
        compiled[name] = framework.compile(functions["composed"], name)
    return {
        name: partial(_call, framework, function, tensors)
        for name, function in {**functions, **compiled}.items()
    }


def _call(framework: Any, function: Any, tensors: tuple[Any, ...]) -> None:
    framework.wait(function(*tensors))


def _print_overhead(framework: Any, seconds: float) -> None:
    """What one call costs besides the arithmetic: four multiplications take no time."""
    calls = _row(framework, TINY, "multiply", "forward")
    arrays = tuple(np.ones((1, 4), "float32") for _ in range(3))
    calls["bare kernel"] = partial(core().run, "ffm", "float32", arrays[:2], arrays[2:], (4, 0), ())
    found = interleave(calls, seconds)
    print(f"per call on a tiny input {TINY}, µs:")
    for name, median in found.items():
        print(f"    {name:<18}{median:>8.1f}")


def _composed(name: str, tensors: tuple[Any, ...], values: tuple[Any, ...]) -> Any:
    from mlayers.bridges import composition

    return composition.run(declarations.OPS[name], tensors, values)[0]


def interleave(calls: Timed, seconds: float, warm_up: int = 3) -> dict[str, float]:
    """Time calls in turns for about `seconds` in all.

    Args:
        calls: functions without arguments by name; each waits for its own result.
        seconds: how long to go on, in all.
        warm_up: how often each is called before.

    Returns:
        The median of each in microseconds per call.
    """
    repeats = {}
    for name, call in calls.items():
        for _ in range(warm_up):
            call()
        start = time.perf_counter()
        call()
        # In bursts of 10 ms, as a program calls it: right after the others the caches are theirs.
        repeats[name] = max(1, int(1e-2 / max(time.perf_counter() - start, 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(samples.values()))) < 7:
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            samples[name].append((time.perf_counter() - start) / repeats[name] * 1e6)
    return {name: float(np.median(times)) for name, times in samples.items()}
