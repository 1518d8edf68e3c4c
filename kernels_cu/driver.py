# SPDX-License-Identifier: Apache-2.0
"""Compiles kernels, once per device and process, and starts them.

CuPy compiles (NVRTC, with a cache on disk) and loads. A kernel is started by the CUDA driver: each
of CuPy, torch and JAX has a stream of its own.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

from mlayers.kernels_cu.plan import Launch, Plan, Scratch

from mlayers import kernels_cu

OPTIONS = ("-std=c++17",)
NO_CONTEXT = 201  # CUDA_ERROR_INVALID_CONTEXT


class CudaError(RuntimeError):
    """The CUDA driver refused something; the words say what, and for which op."""


class Cupy:
    """Where kernels come from on a machine with a GPU; the tests put an emulator in its place."""

    @functools.cached_property
    def why_not(self) -> str | None:
        """Why there are no kernels here, or None where there are."""
        if importlib.util.find_spec("cupy") is None:
            return "CuPy is not installed: pip install mlayers[cuda12], or mlayers[cuda13]"
        try:
            import cupy

            count = cupy.cuda.runtime.getDeviceCount()
            self.library  # noqa: B018  opens it
        except Exception as error:  # of CuPy, of the CUDA runtime or of the loader: all mean no
            return f"CuPy finds no GPU: {type(error).__name__}: {error}"
        return None if count else "CuPy finds no GPU"

    @functools.cached_property
    def library(self) -> Any:
        """The CUDA driver: cuLaunchKernel and cuGetErrorString."""
        return ctypes.CDLL("libcuda.so.1")

    def load(self, source: str, kernel: str, device: int) -> tuple[int, Any]:
        """A kernel's CUfunction on a device, and what keeps it alive."""
        import cupy

        with cupy.cuda.Device(device):
            module = cupy.RawModule(code=source, options=OPTIONS)
            return module.get_function(kernel).kernel.ptr, module

    def bind(self, device: int) -> None:
        """Make this thread one that the device knows."""
        import cupy

        cupy.cuda.runtime.setDevice(device)
        cupy.cuda.runtime.free(0)  # the first call of the runtime in a thread does it


provider: Any = Cupy()

_lock = threading.Lock()


def why_not() -> str | None:
    """Why CUDA kernels cannot run in this process, or None where they can."""
    found: str | None = provider.why_not
    return found


@functools.lru_cache(maxsize=4096)
def function(op: str, dtype: str, constants: Any, kernel: str, device: int) -> int:
    """The CUfunction of a kernel, compiled for a device if this is the first time.

    Raises:
        CudaError: it does not compile.
    """
    source = _source(kernels_cu.module_of(op), dtype, constants)
    with _lock:
        try:
            return _load(source, kernel, device)[0]
        except Exception as error:
            raise CudaError(f"{op}: its CUDA kernel did not compile: {error}") from error


@functools.lru_cache(maxsize=4096)
def _load(source: str, kernel: str, device: int) -> tuple[int, Any]:
    loaded: tuple[int, Any] = provider.load(source, kernel, device)
    return loaded


_source = functools.lru_cache(maxsize=1024)(kernels_cu.source)


def forget() -> None:
    """Forget every kernel, when `provider` is another one."""
    for cache in (function, _load, _ready):
        cache.cache_clear()


# --- starting ---


def run(
    op: Any,
    dtype: str,
    plan: Plan,
    pointers: Sequence[int],
    allocate: Callable[[int], int],
    device: int,
    stream: int,
) -> None:
    """Start the kernels of a plan; returns before they have run.

    Args:
        op: the declaration.
        dtype: the name of the arrays' dtype.
        plan: what to start.
        pointers: to the inputs and outputs on the device, in C order, at multiples of 16 bytes.
        allocate: from a number of bytes to a pointer that stays good until the kernels have run.
        device: its number; it has to be the current one.
        stream: the address of the stream to run on.

    Raises:
        CudaError: a kernel does not compile or is refused.
    """
    scratch = allocate(plan.scratch) if plan.scratch else 0
    for launch, address, packer, places in _ready(plan, op, dtype, device):
        values = [
            value if pointer is None else (scratch if pointer < 0 else pointers[pointer]) + value
            for pointer, value in places
        ]
        code = _start(launch, address, packer.pack(*values), stream)
        if code == NO_CONTEXT:  # a thread in which CUDA's runtime has not been called yet
            provider.bind(device)
            code = _start(launch, address, packer.pack(*values), stream)
        if code:
            raise CudaError(
                f"{op.name}: CUDA did not start the kernel {launch.kernel}: {error_text(code)}"
            )


Ready = tuple[Launch, ctypes.c_void_p, struct.Struct, tuple[tuple[int | None, Any], ...]]


@functools.lru_cache(maxsize=4096)
def _ready(plan: Plan, op: Any, dtype: str, device: int) -> tuple[Ready, ...]:
    """What can be known of each launch before there are pointers.

    That is its kernel's address, how to write its arguments in 8 bytes each, and for each argument
    a place and a number: the position of a pointer to which the number is added, -1 for the scratch
    memory, or None where the number is the argument.
    """
    names = (*op.inputs, *op.outputs)
    ready = []
    for launch in plan.launches:
        if 0 in launch.blocks:
            continue  # nothing to compute
        places: list[tuple[int | None, Any]] = []
        for argument in launch.arguments:
            if isinstance(argument, str):
                places.append((names.index(argument), 0))
            elif isinstance(argument, Scratch):
                places.append((-1, argument.offset))
            else:
                places.append((None, argument))
        packer = struct.Struct("<" + "".join("d" if type(n) is float else "q" for _, n in places))
        address = function(op.name, dtype, plan.constants, launch.kernel, device)
        ready.append((launch, ctypes.c_void_p(address), packer, tuple(places)))
    return tuple(ready)


def _start(launch: Launch, address: ctypes.c_void_p, arguments: bytes, stream: int) -> int:
    """Start a kernel; the driver's error code."""
    count = len(arguments) // 8
    packed = ctypes.create_string_buffer(arguments, len(arguments))
    first = ctypes.addressof(packed)
    code: int = provider.library.cuLaunchKernel(
        address,
        *launch.blocks, 1,
        launch.threads, 1, 1,
        launch.shared,
        ctypes.c_void_p(stream),
        (ctypes.c_void_p * count)(*range(first, first + 8 * count, 8)),
        None,
    )  # fmt: skip
    return code


def error_text(code: int) -> str:
    """What the driver says of an error code."""
    text = ctypes.c_char_p()
    provider.library.cuGetErrorString(code, ctypes.byref(text))
    return f"{(text.value or b'unknown error').decode()} (error {code})"
