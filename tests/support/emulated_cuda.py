# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels without a GPU: the emulator in the driver's place, on memory of the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mlayers.kernels_cu import driver, plan

from mlayers.op import OPS
from support import emulator
from support.op_examples import DTYPES


class Emulated:
    """Stands where driver.Cupy does."""

    why_not = None

    @property
    def library(self) -> Any:
        return emulator.driver()

    def bind(self, device: int) -> None:
        """Every thread knows the emulator."""

    def load(self, source: str, kernel: str, device: int) -> tuple[int, Any]:
        module = emulator.compile(source)
        return module.function(kernel), module


@contextlib.contextmanager
def emulated() -> Iterator[None]:
    """Inside, CUDA kernels are compiled by g++ and run on the CPU."""
    before = driver.provider
    driver.provider = Emulated()
    driver.forget()
    try:
        yield
    finally:
        driver.provider = before
        driver.forget()


def run(op: str, arrays: Sequence[np.ndarray], values: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    """The kernels of an op in the emulator, on copies between guards.

    Raises:
        AssertionError: a kernel wrote beside an array, or left a part of a result unwritten.
    """
    declared = OPS[op]
    dtype = arrays[0].dtype.name
    shapes = tuple(array.shape for array in arrays)
    chosen = plan(op, dtype, shapes, values)
    assert chosen is not None, "there is no kernel for these shapes"
    everything: list[np.ndarray] = []

    def place(shape: Any, kind: Any) -> np.ndarray:
        everything.append(emulator.guarded(shape, _guardable(kind)))
        return everything[-1].view(kind)

    inputs = []
    for array in arrays:
        inputs.append(place(array.shape, array.dtype))
        inputs[-1][...] = array
    outputs = tuple(
        place(shape, DTYPES[dtype]) for shape in declared.shapes(*shapes, **declared.named(values))
    )

    def allocate(size: int) -> int:
        return place(size, np.dtype(np.uint8)).ctypes.data

    pointers = [array.ctypes.data for array in (*inputs, *outputs)]
    with emulated():
        driver.run(declared, dtype, chosen, pointers, allocate, 0, 0)
    for array in everything:
        emulator.check_guards(array)
    for given, array in zip(arrays, inputs, strict=True):
        np.testing.assert_array_equal(given.view(np.uint8), array.view(np.uint8))
    return outputs


def _guardable(dtype: np.dtype) -> np.dtype:
    """A dtype of the same width that NumPy knows by itself."""
    return np.dtype(f"u{dtype.itemsize}")
