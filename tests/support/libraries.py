# SPDX-License-Identifier: Apache-2.0
"""The libraries whose arrays the tests of ops take: NumPy, CuPy, and CuPy emulated."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support.op_examples import DTYPES


class Library:
    """Makes and reads arrays; `kernels` is the name of the path that takes the kernels."""

    def __init__(self, name: str, kernels: str, module: Any) -> None:
        self.name = name
        self.kernels = kernels
        self.module = module

    def array(self, value: Any) -> Any:
        """A NumPy array as one of the library; anything else, and masked arrays, as it is."""
        if self.module is np or not isinstance(value, np.ndarray):
            return value
        if isinstance(value, np.ma.MaskedArray):
            return value
        return self.module.asarray(value)

    def numpy(self, results: Any) -> Any:
        """An array, or a tuple of them, as NumPy's."""
        if isinstance(results, tuple):
            return tuple(map(self.numpy, results))
        if self.module is np:
            return results
        assert isinstance(results, self.module.ndarray)
        return self.module.asnumpy(results)

    def has(self, dtype: str) -> bool:
        """Whether the library knows a dtype: CuPy does not know bfloat16."""
        try:
            self.module.empty(1, DTYPES[dtype])
        except (TypeError, ValueError):
            return False
        return True


@contextlib.contextmanager
def library(name: str) -> Iterator[Library]:
    """`"numpy"`, `"cupy"`, or `"emulated"`: as CuPy's, its kernels in the emulator."""
    if name == "numpy":
        yield Library("numpy", "cython", np)
    elif name == "cupy":
        need_gpu()
        import cupy

        yield Library("cupy", "cupy", cupy)
    else:
        from support import emulated_cuda, emulated_cupy, emulator

        if not emulator.IS_HERE:
            pytest.skip("the emulator needs Linux")
        before = sys.modules.get("cupy")
        sys.modules["cupy"] = emulated_cupy  # type: ignore[assignment]
        try:
            with emulated_cuda.emulated():
                yield Library("cupy", "cupy", emulated_cupy)
        finally:
            if before is None:
                del sys.modules["cupy"]
            else:
                sys.modules["cupy"] = before


def need_gpu() -> None:
    """Skip where CUDA kernels cannot run."""
    from mlayers.kernels_cu import driver

    if why := driver.why_not():
        stop(f"no CUDA kernels here: {why}")


def stop(why: str) -> None:
    """Skip, or fail where MLAYERS_REQUIRE_GPU=1 says that there has to be a GPU."""
    (pytest.fail if os.environ.get("MLAYERS_REQUIRE_GPU") == "1" else pytest.skip)(why)
