# SPDX-License-Identifier: Apache-2.0
"""The room for the CUDA kernels.

    X.cu        what a block does; before it comes prelude.cuh, which knows the dtypes
    X.py        which blocks to start: a function per op, from shapes and attributes to a Plan
    plan.py     Plan and Launch
    driver.py   compiles X.cu with NVRTC when a plan first needs it, and starts kernels

A plan follows from shapes and attributes alone, never from the device. So one serves everyone who
starts kernels: CuPy arrays (mlayers/dispatch/gpu.py), torch (bridges/torch_cuda.py), and JAX, which
writes it into its compiled program (bridges/jax_cuda.py).

No result depends on the order in which blocks or threads run: there are no atomics.
"""

from __future__ import annotations

import functools
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from mlayers.kernels_cu.plan import Plan

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@functools.lru_cache(maxsize=1024)
def plan(
    op: str, dtype: str, shapes: tuple[tuple[int, ...], ...], values: tuple[Any, ...]
) -> Plan | None:
    """What to start for an op, or None where it has no kernel for these shapes.

    Args:
        op: its name, such as `"ffm_grad"`.
        dtype: the name of the arrays' dtype.
        shapes: the inputs' shapes.
        values: the attributes in declared order, checked.
    """
    made: Plan | None = getattr(_room(op), op)(ITEMSIZE[dtype], *shapes, *values)
    return made


@functools.cache
def has(op: str) -> bool:
    """Whether there is a kernel for any shapes of this op."""
    return Path(__file__).with_name(f"{module_of(op)}.cu").exists()


def module_of(op: str) -> str:
    """The room of an op: ffm_grad lives in ffm; the probe of the bridges is no op."""
    name = op.removesuffix("_grad")
    return "_probe" if name == "probe" else name


def source(module: str, dtype: str, constants: tuple[tuple[str, Any], ...]) -> str:
    """The text to compile: sizes that are compiled in, prelude.cuh, X.cu.

    One text and no `#include`, so that whoever caches what was compiled need only compare this.
    """
    macros = [f"#define DTYPE_{dtype} 1", *(f"#define {n} {_text(v)}" for n, v in constants)]
    return "\n".join([*macros, _file("prelude.cuh"), _file(f"{module}.cu")])


def kernels(module: str) -> tuple[str, ...]:
    """The names of the kernels in `X.cu`."""
    pattern = r'extern "C" __global__ void __launch_bounds__\([^)]*\)\s+(\w+)\('
    found = re.findall(pattern, _file(f"{module}.cu"))
    return tuple(found)


def _text(value: Any) -> str:
    """A number, or a list of them, nested or not, as C writes it."""
    if isinstance(value, tuple):
        return ", ".join(f"{{{_text(v)}}}" if isinstance(v, tuple) else str(v) for v in value)
    return str(value)


@functools.cache
def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _room(op: str) -> Any:
    return import_module(f"{__name__}.{module_of(op)}")
