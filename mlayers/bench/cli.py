# SPDX-License-Identifier: Apache-2.0
"""``python -m mlayers bench``: options, one process for each framework, and the files.

Where it is measured is a module, cpu.py or with ``--gpu`` gpu.py; both have the same names.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlayers.bench import cases, cpu, gpu, pictures, report, rows
from mlayers.bridges import native
from mlayers.train.errors import CommandError

OPS = (*cases.OPS, "tower")
DIRECTIONS = ("forward", "forward+backward")
DTYPES = tuple(rows.ITEMSIZE)


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "bench", help="time the kernels beside the composition, NumPy and the machine's own limits"
    )
    add = parser.add_argument
    add("--gpu", action="store_true", help="measure on a GPU, which needs CuPy")
    add(
        "--backend",
        help=f"separated by commas (default: {','.join(cpu.BACKENDS)}; "
        f"with --gpu: {','.join(gpu.BACKENDS)})",
    )
    add("--op", default=",".join(OPS), help="separated by commas (default: %(default)s)")
    add(
        "--dtype",
        help=f"separated by commas (default: {','.join(cpu.DTYPES)}; "
        f"with --gpu: {','.join(gpu.DTYPES)})",
    )
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
    where: Any = gpu if arguments.gpu else cpu
    arguments.backend = arguments.backend or ",".join(where.BACKENDS)
    arguments.dtype = arguments.dtype or ",".join(where.DTYPES)
    chosen = _choice(arguments, "backend", where.BACKENDS)
    for option, known in (("op", OPS), ("dtype", DTYPES), ("direction", DIRECTIONS)):
        _choice(arguments, option, known)
    for option in ("picture", "growth"):
        if getattr(arguments, option):
            pictures.need_matplotlib(f"--{option}")
    where.need()
    backends = [name for name in chosen if importlib.util.find_spec(name)]
    if not backends:
        raise CommandError(f"bench: none of {', '.join(chosen)} is installed")
    if os.environ.get("MLAYERS_BENCH_PART"):  # this is the process of one framework
        measured = _measure(where.Backend(backends[0]), arguments)
        _write(Path(os.environ["MLAYERS_BENCH_PART"]), measured)
        return 0
    found: dict[str, Any] = {
        "command": " ".join(["python -m mlayers", *sys.argv[1:]]),
        **where.about(arguments.seconds),
        "rows": [],
        "tower": [],
        "growth": [],
        "overhead_us": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in backends:
            part = Path(folder, f"{name}.json")
            # inductor knows a graph by its ops: one kept on disk may be of another mlayers' rules
            more = {**where.ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR": folder}
            code = _run_part(name, part, more)
            if code:
                return code
            for key, value in json.loads(part.read_text()).items():
                if isinstance(value, dict):
                    found[key].update(value)
                else:
                    found[key] += value
    if arguments.gpu:
        found.update(gpu.best(found["limits"]))
    if arguments.json:
        _write(arguments.json, found)
    if arguments.picture:
        if not found["gflops"]:
            raise CommandError("bench: --picture: its roof needs a matrix product; none ran here")
        bandwidth = max(found["gb_per_s"][kind] for kind in where.ROOF)
        pictures.draw_roofline(found["rows"], bandwidth, found["gflops"], arguments.picture)
    if arguments.growth:
        pictures.draw_growth(found["growth"], arguments.growth)
    return 0


def _write(path: Path, found: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(found, indent=1))
    except OSError as error:
        raise CommandError(f"bench: cannot write {path}: {error.strerror}") from error


def _run_part(name: str, part: Path, more: Mapping[str, str]) -> int:
    """Run this command again for one framework, which Keras takes as its backend."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **more}
    environment["MLAYERS_BENCH_PART"] = str(part)
    if name in native.FRAMEWORKS:
        environment["KERAS_BACKEND"] = name
    command = [sys.executable, "-P", "-m", "mlayers", *sys.argv[1:], "--backend", name]
    sys.stdout.flush()
    return subprocess.run(command, env=environment, check=False).returncode


def _measure(backend: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """All that is measured of one `Backend`: a part of the JSON."""
    name = backend.name
    found: dict[str, Any] = {"rows": [], "tower": [], "growth": [], "overhead_us": {}}
    why = backend.why_not()
    if why:
        print(f"\n{name} is left out: {why}", flush=True)
        return found
    report.print_header(_title(name))
    limits = backend.limits(arguments.seconds)
    if limits:
        found["limits"] = {name: limits}
        report.print_limits(limits)
    overhead = backend.overhead(arguments.seconds)
    if overhead:
        found["overhead_us"][name] = overhead
        report.print_overhead(overhead)
    dtypes = [dtype for dtype in arguments.dtype.split(",") if _is_known(backend, dtype)]
    ops = arguments.op.split(",")
    without_tower = [op for op in ops if op != "tower"]
    for case in cases.chosen(without_tower, arguments.shape, arguments.gpu):
        for dtype in dtypes:
            for direction in arguments.direction.split(","):
                row = backend.row(case, dtype, direction, arguments.seconds)
                report.print_row(row)
                found["rows"].append(row)
    if "tower" in ops:
        found["tower"] = backend.tower(arguments.seconds)
        for row in found["tower"]:
            report.print_tower_row(row)
    if arguments.growth:
        for varied, its_cases in cases.GROWTH.items():
            axis = "BLRD" if its_cases[0].op in ("multiply", "dot") else "BSnK"
            for case in its_cases:
                row = backend.row(case, "float32", "forward", arguments.seconds / 4)
                size = case.sizes[axis.index(varied[-1])]
                found["growth"].append({**row, "varied": varied, "size": size})
    return found


def _is_known(backend: Any, dtype: str) -> bool:
    if dtype not in backend.dtypes:
        print(f"{backend.name} knows no {dtype}: rows in it are left out")
    return dtype in backend.dtypes


def _title(name: str) -> str:
    """The line above the rows of a library: its version, and the state of its bridge."""
    version = importlib.import_module(name).__version__
    bridge = f"; bridge: {native.state(name)}" if name in native.FRAMEWORKS else ""
    return f"{name} {version}{bridge}"
