# SPDX-License-Identifier: Apache-2.0
"""Runs CUDA kernels on the CPU, compiled with g++ behind emulator.h: slow, strict, no GPU needed.

`run` launches a kernel of a .cu text on NumPy arrays. Code that calls the CUDA driver through
ctypes gets the same from `driver()`, with `Module.function(name)` in place of a CUfunction:

    module = emulator.compile(source)
    with emulator.order("reverse"):
        emulator.driver().cuLaunchKernel(module.function("multiply"), *grid, *block, ...)

A kernel is `extern "C" __global__ void name(...)`, each of its parameters 8 bytes wide: a pointer,
a long long or a double. Shared memory of a size that the launch decides is DYNAMIC_SHARED(type,
name); nothing is included. What is and what is not emulated stands at the top of emulator.h.

Linux and g++ only. Compiled libraries stay in the folder for temporary files.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import numbers
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
IS_HERE = sys.platform == "linux"  # whether it can run on this system
HEADERS = ("emulator.h", "emulator_threads.h")
# Kernels may look at the same bytes as several types, as in CUDA. The sanitizer's functions are our
# own, at the end of emulator.h; so the library that it comes with is not linked.
COMPILE = [
    *["-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"],
    *["-fno-strict-aliasing", "-fsanitize=alignment,bounds"],
    *["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function"],
    f"-I{HERE}",
]
# A namespace without a name makes all of the text private to the library. Else g++ refuses to put
# shared arrays of inline functions, which others might hold too, beside those of kernels.
MAIN = """#include "emulator.h"
namespace {{
#include "kernels.cu"
}}
{rest}
"""
ORDERS = ("forward", "reverse", "random")  # as enum Order
_orders = [(0, 0)]  # index and seed of those entered
GUARD = 256  # bytes on either side of a guarded array

KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:void\s+)?'
    r"(?:__launch_bounds__\s*\(\s*(?P<threads>[^,)]+)[^)]*\)\s*)?(?:void\s+)?(?P<name>\w+)\s*\("
)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)

# The part of the driver that code under test calls. Its session is that of all modules.
DRIVER = """
typedef int wrapper(unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*,
                    void**, void**);

MLAYERS_EXPORT int cuLaunchKernel(wrapper* function, unsigned gx, unsigned gy, unsigned gz,
                                  unsigned bx, unsigned by, unsigned bz, unsigned shared_bytes,
                                  void* stream, void** params, void** extra) {
    if (!function) return 400;
    return function(gx, gy, gz, bx, by, bz, shared_bytes, stream, params, extra);
}

MLAYERS_EXPORT int cuGetErrorName(int code, const char** name) {
    *name = code == 0 ? "CUDA_SUCCESS" : code == 1 ? "CUDA_ERROR_INVALID_VALUE"
          : code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 400 ? "CUDA_ERROR_INVALID_HANDLE"
          : code == 716 ? "CUDA_ERROR_MISALIGNED_ADDRESS"
          : code == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : nullptr;
    return *name ? 0 : 1;
}

MLAYERS_EXPORT int cuGetErrorString(int code, const char** sentence) {
    if (code && code == emulator::session->code) return *sentence = emulator::session->error, 0;
    if (!code) return *sentence = "no error", 0;
    return cuGetErrorName(code, sentence);
}

MLAYERS_EXPORT const char* mlayers_last_error() { return emulator::session->error; }

MLAYERS_EXPORT void mlayers_set_order(int order, unsigned seed) {
    emulator::session->order = order;
    emulator::session->seed = seed;
}
"""


class Module:
    """A compiled .cu text. It is never unloaded."""

    def __init__(self, library: ctypes.CDLL, kernels: tuple[str, ...]) -> None:
        self.library = library
        self.kernels = kernels

    def function(self, name: str) -> int:
        """The address that plays the CUfunction of a kernel."""
        if name not in self.kernels:
            raise RuntimeError(f"no kernel {name!r} among {', '.join(self.kernels) or 'none'}")
        wrapper = getattr(self.library, f"mlayers_emulated_{name}")
        address = ctypes.cast(wrapper, ctypes.c_void_p).value
        assert address
        return address


def compile(source: str) -> Module:
    """The kernels of a complete .cu text; RuntimeError with what g++ says if it says no."""
    return _compile(source, _compiler())


@functools.cache
def driver() -> ctypes.CDLL:
    """A library with cuLaunchKernel, cuGetErrorName and cuGetErrorString."""
    library = ctypes.CDLL(str(_library("", DRIVER, _compiler())))
    library.mlayers_session.restype = ctypes.c_void_p
    library.mlayers_last_error.restype = ctypes.c_char_p
    return library


def __getattr__(name: str) -> Any:
    if name == "launch_kernel":  # not before it is asked for: it has to be compiled
        return driver().cuLaunchKernel
    raise AttributeError(name)


def last_error() -> str:
    """The sentence about the last launch that failed: which kernel, which block, what."""
    return driver().mlayers_last_error().decode()


@contextlib.contextmanager
def order(name: str, seed: int = 0) -> Iterator[None]:
    """The order in which warps and lanes take turns: forward, reverse, or random."""
    _orders.append((ORDERS.index(name), seed))
    driver().mlayers_set_order(_orders[-1][0], ctypes.c_uint(seed))
    try:
        yield
    finally:
        _orders.pop()
        driver().mlayers_set_order(_orders[-1][0], ctypes.c_uint(_orders[-1][1]))


def run(
    source: str,
    name: str,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    arguments: Sequence[Any],
    shared: int = 0,
) -> None:
    """Launch a kernel; an argument is an array, an int (long long) or a float (double)."""
    function = ctypes.c_void_p(compile(source).function(name))
    values = [_parameter(argument) for argument in arguments]
    params = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    sizes = [ctypes.c_uint(size) for size in (*_three(grid), *_three(block), shared)]
    if driver().cuLaunchKernel(function, *sizes, ctypes.c_void_p(), params, ctypes.c_void_p()):
        raise RuntimeError(last_error())


def guarded(array_shape: int | Sequence[int], dtype: Any) -> np.ndarray:
    """An array between two guards; all bits are ones, which is NaN or -1."""
    dtype = np.dtype(dtype)
    size = int(np.prod(array_shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.full(size + 3 * GUARD, 0xFF, np.uint8)
    begin = GUARD + -buffer.ctypes.data % GUARD
    return buffer[begin : begin + size].view(dtype).reshape(array_shape)


def check_guards(array: np.ndarray) -> None:
    """AssertionError if somebody wrote next to an array that `guarded` made."""
    buffer = array.base
    assert isinstance(buffer, np.ndarray)
    begin = array.ctypes.data - buffer.ctypes.data
    for side, guard in (
        ("before", buffer[:begin][::-1]),
        ("after", buffer[begin + array.nbytes :]),
    ):
        changed = np.flatnonzero(guard != 0xFF)
        assert not changed.size, (
            f"{changed.size} bytes {side} the array, the next {changed[0]} away"
        )


def _three(sizes: int | Sequence[int]) -> tuple[int, ...]:
    sizes = (sizes,) if isinstance(sizes, numbers.Integral) else tuple(sizes)
    return (*sizes, 1, 1)[:3]


def _parameter(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data)
    if isinstance(argument, numbers.Integral):
        return ctypes.c_longlong(int(argument))
    return ctypes.c_double(argument)


def _compiler() -> tuple[str, ...]:
    default = "g++" if shutil.which("g++") else "c++"
    return tuple(shlex.split(os.environ.get("CXX") or default))


@functools.cache
def _compile(source: str, compiler: tuple[str, ...]) -> Module:
    found = list(KERNEL.finditer(COMMENT.sub(" ", source)))
    wrappers = [f"MLAYERS_EMULATED_KERNEL({k['name']}, {k['threads'] or 1024})" for k in found]
    library = ctypes.CDLL(str(_library(source, "\n".join(wrappers), compiler)))
    library.mlayers_join(ctypes.c_void_p(driver().mlayers_session()))
    return Module(library, tuple(k["name"] for k in found))


def _library(source: str, rest: str, compiler: tuple[str, ...]) -> Path:
    """Compiled once for all processes: each works in a folder of its own, and the last one wins."""
    main = MAIN.format(rest=rest)
    parts = [source, main, *((HERE / name).read_text() for name in HEADERS), *compiler, *COMPILE]
    library = _cache() / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        Path(folder, "kernels.cu").write_text(source)
        Path(folder, "main.cpp").write_text(main)
        _execute([*compiler, *COMPILE, "-c", "main.cpp", "-o", "main.o"], folder)
        _execute([*compiler, "-shared", "main.o", "-o", "main.so"], folder)
        os.replace(Path(folder, "main.so"), library)
    return library


def _cache() -> Path:
    folder = Path(tempfile.gettempdir(), f"mlayers-emulator-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to somebody else")
    return folder


def _execute(command: list[str], folder: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")
    if done.stderr:
        warnings.warn(done.stderr, stacklevel=2)
