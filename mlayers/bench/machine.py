# SPDX-License-Identifier: Apache-2.0
"""The machine: what it is, what its memory can do, how much of it a call takes."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import mlayers
from mlayers import cython_cpu

FILL, FILL_PAST_CACHES, COPY, READ = range(4)  # of cython_cpu/_bandwidth.pyx


def describe() -> dict[str, Any]:
    """Processor, cores, instruction set, threads, versions, time."""
    config = mlayers.show_config(mode="dict") or {}
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "isa": cython_cpu.isa(),
        "threads": mlayers.get_num_threads(),
        "versions": config["versions"],
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory_call(mode: int, buffer: np.ndarray[Any, Any]) -> Callable[[], None]:
    """A call that fills, copies or reads a float32 buffer on the kernels' threads."""
    call = cython_cpu.core()
    for name, functions in cython_cpu.module("_bandwidth").KERNELS.items():
        call.register(name, functions)
    source = buffer if mode != COPY else np.ones_like(buffer)
    target = buffer if mode != READ else np.empty_like(buffer)
    prepared = call.Prepared("bandwidth", "float32", (mode,), ())

    def run() -> None:
        prepared.run((source,), (target,))

    return run


def best_fill(buffer: np.ndarray[Any, Any]) -> dict[str, Callable[[], None]]:
    """The ways to fill a buffer that is there already; the fastest is a floor for any output."""
    return {
        "fill": memory_call(FILL, buffer),
        "fill past caches": memory_call(FILL_PAST_CACHES, buffer),
    }


def fresh_fill(size: int) -> Callable[[], None]:
    """Take memory for `size` float32 numbers, fill it, give it back: NumPy asks for huge pages."""

    def run() -> None:
        memory_call(FILL, np.empty(size, "float32"))()

    return run


def bandwidths(seconds: float, megabytes: int = 128) -> dict[str, float]:
    """GB/s of a buffer far larger than the caches, by what is done with it."""
    from mlayers.bench.timing import interleave

    buffer = np.ones((megabytes << 20) // 4, "float32")
    calls = {
        **best_fill(buffer),
        "fill fresh": fresh_fill(buffer.size),
        "copy": memory_call(COPY, buffer),
        "read": memory_call(READ, buffer),
    }
    moved = {name: buffer.nbytes * (2 if name == "copy" else 1) for name in calls}
    found = interleave(calls, seconds)
    return {name: moved[name] / timing.median / 1e3 for name, timing in found.items()}


def peak_flops(seconds: float) -> float:
    """GFLOP/s of a large float32 matrix product, NumPy's BLAS."""
    from mlayers.bench.timing import interleave

    a = np.ones((1024, 1024), "float32")
    out = np.empty_like(a)
    found = interleave({"matmul": lambda: np.matmul(a, a, out=out)}, seconds)
    return 2 * 1024**3 / found["matmul"].median / 1e3


def peak_memory(call: Callable[[], Any]) -> int | None:
    """How many bytes a call takes on top of what the process has; None where nobody tells."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    call()
    try:
        before = _kilobytes(status, "VmRSS")
        reset.write_text("5")  # the highest mark falls to what is in use now
        call()
        return max(0, _kilobytes(status, "VmHWM") - before) << 10
    except OSError:  # not Linux, or not allowed
        return None


def _kilobytes(status: Path, name: str) -> int:
    for line in status.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise OSError(f"{status} has no {name}")
