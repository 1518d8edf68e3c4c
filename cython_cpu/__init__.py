# SPDX-License-Identifier: Apache-2.0
"""CPU kernels: one `X.pyx` per op, each exporting `KERNELS`, name -> (kernel, shapes) in capsules.

Kernels check nothing; `mlayers.ops` has. They are called through the C struct of `call.h`, and
know neither NumPy nor any framework. `_call` is their common ground: the registry, the thread pool,
NumPy's way in. Inner loops are C++ on vectors, `X.hpp` beside `X.pyx`, above `vector.hpp`.

All kernels are bitwise deterministic: each number of a result is made by one thread, in an order
that depends neither on how many threads there are nor on what part of the work each gets. Between
instruction sets results agree to rounding: with AVX2 and AVX-512 a product and a sum are rounded
together (fma).

Every kernel is compiled for several instruction sets, as `X`, `X_avx2`, `X_avx512`; the best that
the processor runs is registered, or the one that `MLAYERS_ISA` names.
"""

from __future__ import annotations

import os
import pkgutil
import platform
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

BASELINE = "baseline"  # what every processor of the architecture has: SSE2, NEON
ISAS = (BASELINE, "avx2", "avx512")  # the best last
_ALIASES = {"neon": BASELINE} if platform.machine() in ("arm64", "aarch64") else {}

_isa = BASELINE  # the one in use


@cache
def core() -> Any:
    """The module `_call`, with every kernel of this folder registered.

    Raises:
        ImportError: the kernels are not compiled here.
        ValueError: `MLAYERS_ISA` names no instruction set, or one that this machine has not.
    """
    try:
        call = import_module(f"{__name__}._call")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"no compiled kernels beside {Path(__file__).parents[1]}. A source tree has none: "
            "install it with 'pip install -e .', or run from another folder."
        ) from error
    call.set_num_threads(_default_threads())
    _register(call, _chosen_isa(call))
    return call


def isas() -> tuple[str, ...]:
    """The instruction sets that kernels are compiled for and this machine runs, the best last."""
    return _available(core())


def isa() -> str:
    """The instruction set of the kernels in use."""
    core()
    return _isa


def use_isa(name: str) -> None:
    """Take the kernels of another instruction set, for calls of this process from now on."""
    if name not in isas():
        raise ValueError(f"use_isa: 'name' must be one of {isas()}. Received: {name!r}")
    _register(core(), name)


def module(name: str) -> Any:
    """The compiled module `name` for the instruction set in use."""
    suffix = "" if isa() == BASELINE else f"_{isa()}"
    return import_module(f"{__name__}.{name}{suffix}")


def _available(call: Any) -> tuple[str, ...]:
    compiled = {info.name for info in pkgutil.iter_modules(__path__)}
    return tuple(
        isa for isa in ISAS if isa == BASELINE or (f"ffm_{isa}" in compiled and call.can_run(isa))
    )


def _chosen_isa(call: Any) -> str:
    available = _available(call)
    wanted = os.environ.get("MLAYERS_ISA", "auto").strip().lower()
    if wanted == "auto":
        return available[-1]
    wanted = _ALIASES.get(wanted, wanted)
    if wanted not in available:
        raise ValueError(
            f"MLAYERS_ISA: must be 'auto' or one of {', '.join(available)} on this machine. "
            f"Received: {os.environ['MLAYERS_ISA']!r}"
        )
    return wanted


def _register(call: Any, isa: str) -> None:
    global _isa
    suffix = "" if isa == BASELINE else f"_{isa}"
    for info in pkgutil.iter_modules(__path__):
        if not info.name.startswith("_") and info.name.rpartition("_")[2] not in ISAS:
            kernels = import_module(f"{__name__}.{info.name}{suffix}").KERNELS
            for name, functions in kernels.items():
                call.register(name, functions)
    _isa = isa


def _default_threads() -> int:
    """OMP_NUM_THREADS where it says a number, as numerical libraries read it; else as many as cores
    this process may run on.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdigit() and int(first) > 0:
        return int(first)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
