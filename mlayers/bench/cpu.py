# SPDX-License-Identifier: Apache-2.0
"""``bench`` on the CPU, as cli.py asks for it: NumPy and the frameworks. gpu.py is its twin."""

from __future__ import annotations

from typing import Any

from mlayers.bench import machine, report, rows
from mlayers.bench.cases import Case
from mlayers.bench.frameworks import FRAMEWORKS
from mlayers.bridges import native

BACKENDS = ("numpy", *native.FRAMEWORKS)
DTYPES = ("float32",)  # of the rows, unless others are asked for
ENVIRONMENT: dict[str, str] = {}  # of a process that measures, on top of what is there
ROOF = ("read", "fill past caches", "fill")  # the fastest of these is the roof of the picture


def need() -> None:
    """Every machine has a CPU."""


def about(seconds: float) -> dict[str, Any]:
    """The machine and its limits, which are printed: "machine", "gb_per_s" by kind, "gflops"."""
    found, speed = machine.describe(), machine.bandwidths(seconds)
    report.print_machine(found, speed)
    return {
        "machine": found,
        "gb_per_s": speed,
        "gflops": machine.peak_flops(min(seconds, 1.0)),
    }


class Backend:
    """What is measured of NumPy or of a framework."""

    dtypes = tuple(rows.ITEMSIZE)

    def __init__(self, name: str) -> None:
        self.name = name
        self.framework = FRAMEWORKS[name]() if name in FRAMEWORKS else None

    def why_not(self) -> str | None:
        """Why nothing can be measured, or None."""
        return None

    def limits(self, seconds: float) -> dict[str, Any]:
        """None of its own: see `about`."""
        return {}

    def overhead(self, seconds: float) -> dict[str, float]:
        """Microseconds per call on a tiny input, by column; none of NumPy."""
        return rows.overhead(self.framework, seconds) if self.framework else {}

    def row(self, case: Case, dtype: str, direction: str, seconds: float) -> dict[str, Any]:
        """A row; NumPy, which does not differentiate, has a gradient alone as its backward."""
        if self.framework is None:
            direction = "forward" if direction == "forward" else "gradient"
            return rows.numpy_row(case, dtype, direction, seconds)
        return rows.framework_row(self.framework, self.name, case, dtype, direction, seconds)

    def tower(self, seconds: float) -> list[dict[str, Any]]:
        """The rows of tower.py; none of NumPy."""
        if self.framework is None:
            return []
        from mlayers.bench import tower

        return tower.rows(self.name, seconds)
