# SPDX-License-Identifier: Apache-2.0
"""CPU kernels: one `X.pyx` per op, each exporting `KERNELS`, name -> (kernel, shapes) in capsules.

Kernels check nothing; `mlayers.ops` has. They are called through the C struct of `call.h`, and
know neither NumPy nor any framework. `_call` is their common ground: the registry, the thread pool,
NumPy's way in.
"""

from __future__ import annotations

import os
import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any


@cache
def core() -> Any:
    """The module `_call`, with every kernel of this folder registered.

    Raises:
        ImportError: the kernels are not compiled here.
    """
    try:
        call = import_module(f"{__name__}._call")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"no compiled kernels beside {Path(__file__).parents[1]}. A source tree has none: "
            "install it with 'pip install -e .', or run from another folder."
        ) from error
    call.set_num_threads(_default_threads())
    for info in pkgutil.iter_modules(__path__):
        if not info.name.startswith("_"):
            for name, functions in import_module(f"{__name__}.{info.name}").KERNELS.items():
                call.register(name, functions)
    return call


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
