# SPDX-License-Identifier: Apache-2.0
"""The JAX bridge's GPU path on the CPU: its plans, its handler in C, its kernels in the emulator.

XLA on the CPU plays the GPU. `install` alters the process for good, so it is for programs that
tests start (jax_cuda_cases.py).
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
from jax.interpreters import mlir
from mlayers.kernels_cu import driver

from mlayers.bridges import jax as jax_bridge
from mlayers.bridges import jax_cuda, native
from support import emulator
from support.emulated_cuda import Emulated

SHIM = Path(__file__).with_name("xla_on_cpu.c")


class Provider(Emulated):
    """The emulator, and the shim's launches in front of its own."""

    def __init__(self) -> None:
        self.shim = _compiled_shim()
        self.loaded: list[tuple[str, int]] = []  # kernel and device, in the order of the requests
        self.broken = ""  # what compilations fail with

    @property
    def library(self) -> Any:
        return SimpleNamespace(cuLaunchKernel=self.shim.mlayers_launch)

    def load(self, source: str, kernel: str, device: int) -> tuple[int, Any]:
        self.loaded.append((kernel, device))
        if self.broken:
            raise RuntimeError(self.broken)
        return super().load(source, kernel, device)

    def count(self, name: str) -> ctypes.c_int:
        """A number of the shim's: calls, launches, or refuse, which makes launches fail."""
        return ctypes.c_int.in_dll(self.shim, f"mlayers_{name}")


def _compiled_shim() -> ctypes.CDLL:
    # The header lies beside the bridges, in a checkout as in a wheel.
    bridges = Path(native.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "xla_on_cpu.so")
        command = [*shlex.split(os.environ.get("CC") or "cc"), "-std=gnu11", "-O1", "-g", "-Wall"]
        command += ["-Wextra", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden", f"-I{bridges}"]
        subprocess.run([*command, str(SHIM), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))  # stays open when its file has gone


def install() -> Provider:
    """From here on, programs for the CPU take the path of those for a GPU."""
    assert native.bridge("jax") is not None, native.why_not("jax")
    driver.provider = provider = Provider()
    pycapsule = jax.ffi.pycapsule

    def shim_in_front(handler: Any) -> Any:
        provider.shim.mlayers_start_on_cpu(handler, emulator.driver().cuLaunchKernel)
        return pycapsule(provider.shim.mlayers_call_on_cpu)

    with mock.patch.object(jax.ffi, "pycapsule", shim_in_front):
        assert jax_cuda.load(platform="cpu") is None
    rule = partial(jax_bridge._lower, jax_cuda.lower)
    mlir.register_lowering(jax_bridge._primitive, rule, platform="cpu")
    jax.clear_caches()  # of the probe, which the CPU's own kernel has answered
    return provider
