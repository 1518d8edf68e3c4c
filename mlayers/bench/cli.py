# SPDX-License-Identifier: Apache-2.0
"""``python -m mlayers bench``: options, one process for each framework, and the files."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlayers.bench import cases, machine, pictures, report, rows
from mlayers.bench.frameworks import FRAMEWORKS
from mlayers.bridges import native
from mlayers.train.errors import CommandError

BACKENDS = ("numpy", *native.FRAMEWORKS)
OPS = (*cases.OPS, "tower")
DIRECTIONS = ("forward", "forward+backward")
DTYPES = tuple(rows.ITEMSIZE)


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "bench", help="time the kernels beside the composition, NumPy and the machine's own limits"
    )
    add = parser.add_argument
    add("--backend", default=",".join(BACKENDS), help="separated by commas (default: %(default)s)")
    add("--op", default=",".join(OPS), help="separated by commas (default: %(default)s)")
    add("--dtype", default="float32", help="separated by commas (default: float32)")
    add("--direction", default=",".join(DIRECTIONS), help="(default: %(default)s)")
    add(
        "--shape",
        action="append",
        type=_shape,
        metavar="B,L,R,D",
        help="of ffm: batch, left fields, right fields, dimension; may be repeated",
    )
    add("--seconds", type=float, default=1.5, help="time to spend on a row (default: 1.5)")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add("--picture", type=Path, metavar="FILE", help="write the roofline as a PNG")
    add("--growth", type=Path, metavar="FILE", help="write how time grows with each size as a PNG")
    parser.set_defaults(run=run)


def _shape(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split(","))
    if len(sizes) != 4 or min(sizes) < 1:
        raise ValueError(text)
    return sizes


def _choice(arguments: argparse.Namespace, option: str, known: Sequence[str]) -> list[str]:
    chosen: list[str] = getattr(arguments, option).split(",")
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise CommandError(
            f"bench: --{option} must name {', '.join(known)}. Received: {', '.join(unknown)}"
        )
    return chosen


def run(arguments: argparse.Namespace) -> int:
    """Time each framework in a process of its own, and write what was asked for."""
    chosen = _choice(arguments, "backend", BACKENDS)
    for option, known in (("op", OPS), ("dtype", DTYPES), ("direction", DIRECTIONS)):
        _choice(arguments, option, known)
    for option in ("picture", "growth"):
        if getattr(arguments, option):
            pictures.need_matplotlib(f"--{option}")
    backends = [name for name in chosen if importlib.util.find_spec(name)]
    if not backends:
        raise CommandError(f"bench: none of {', '.join(chosen)} is installed")
    if os.environ.get("MLAYERS_BENCH_PART"):  # this is the process of one framework
        _write(Path(os.environ["MLAYERS_BENCH_PART"]), _measure(backends[0], arguments))
        return 0
    about = machine.describe()
    limits = machine.bandwidths(arguments.seconds)
    report.print_machine(about, limits)
    found: dict[str, Any] = {
        "command": " ".join(["python -m mlayers", *sys.argv[1:]]),
        "machine": about,
        "gb_per_s": limits,
        "gflops": machine.peak_flops(min(arguments.seconds, 1.0)),
        "rows": [],
        "tower": [],
        "growth": [],
        "overhead_us": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in backends:
            part = Path(folder, f"{name}.json")
            code = _run_part(name, part)
            if code:
                return code
            for key, value in json.loads(part.read_text()).items():
                if isinstance(value, dict):
                    found[key].update(value)
                else:
                    found[key] += value
    if arguments.json:
        _write(arguments.json, found)
    if arguments.picture:
        bandwidth = max(limits["read"], limits["fill past caches"], limits["fill"])
        pictures.draw_roofline(found["rows"], bandwidth, found["gflops"], arguments.picture)
    if arguments.growth:
        pictures.draw_growth(found["growth"], arguments.growth)
    return 0


def _write(path: Path, found: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(found, indent=1))
    except OSError as error:
        raise CommandError(f"bench: cannot write {path}: {error.strerror}") from error


def _run_part(name: str, part: Path) -> int:
    """Run this command again for one framework, which Keras takes as its backend."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "MLAYERS_BENCH_PART": str(part)}
    if name in native.FRAMEWORKS:
        environment["KERAS_BACKEND"] = name
    command = [sys.executable, "-P", "-m", "mlayers", *sys.argv[1:], "--backend", name]
    sys.stdout.flush()
    return subprocess.run(command, env=environment, check=False).returncode


def _measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    framework = FRAMEWORKS[name]() if name in FRAMEWORKS else None
    module = importlib.import_module(name)
    title = f"{name} {module.__version__}"
    if framework is not None:
        title += f"; bridge: {native.state(name)}"
    report.print_header(title)
    found: dict[str, Any] = {"rows": [], "tower": [], "growth": [], "overhead_us": {}}
    if framework is not None:
        found["overhead_us"][name] = rows.overhead(framework, arguments.seconds)
        report.print_overhead(found["overhead_us"][name])
    ops = arguments.op.split(",")
    for case in cases.chosen([op for op in ops if op != "tower"], arguments.shape):
        for dtype in arguments.dtype.split(","):
            for direction in arguments.direction.split(","):
                row = _row(framework, name, case, dtype, direction, arguments.seconds)
                report.print_row(row)
                found["rows"].append(row)
    if "tower" in ops and framework is not None:
        from mlayers.bench import tower

        found["tower"] = tower.rows(name, arguments.seconds)
        for row in found["tower"]:
            report.print_tower_row(row)
    if arguments.growth:
        for varied, its_cases in cases.GROWTH.items():
            axis = "BLRD" if its_cases[0].op in ("multiply", "dot") else "BSnK"
            for case in its_cases:
                row = _row(framework, name, case, "float32", "forward", arguments.seconds / 4)
                size = case.sizes[axis.index(varied[-1])]
                found["growth"].append({**row, "varied": varied, "size": size})
    return found


def _row(
    framework: Any, name: str, case: cases.Case, dtype: str, direction: str, seconds: float
) -> dict[str, Any]:
    if framework is None:
        direction = "forward" if direction == "forward" else "gradient"
        return rows.numpy_row(case, dtype, direction, seconds)
    return rows.framework_row(framework, name, case, dtype, direction, seconds)
