# SPDX-License-Identifier: Apache-2.0
"""What this installation has, what it uses, and for what is off, why."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mlayers import cython_cpu
from mlayers.bridges import native
from mlayers.config import chosen_path
from mlayers.kernels_cu import driver

_PACKAGES = (
    *("mlayers", "numpy", "keras", "jax", "tensorflow", "tensorflow-cpu", "torch"),
    *("cupy", "cupy-cuda12x", "cupy-cuda13x"),
)


def show_config(mode: str = "print") -> dict[str, Any] | None:
    """Print versions, kernels, threads and the path each framework takes.

    Nothing is imported to find out: a framework that is not loaded is named by its version only.

    Args:
        mode: `"print"`, or `"dict"` to get the same as a dictionary.

    Returns:
        The dictionary with `mode="dict"`, else None.

    Raises:
        ValueError: another mode.

    Example:
        >>> import mlayers
        >>> sorted(mlayers.show_config(mode="dict")["bridges"])
        ['jax', 'tensorflow', 'torch']
    """
    if mode not in ("print", "dict"):
        raise ValueError(f"show_config: 'mode' must be 'print' or 'dict'. Received: {mode!r}")
    config = {
        "versions": {"python": platform.python_version(), **_versions()},
        "path": chosen_path(),
        "cpu kernels": _cpu_kernels(),
        "cuda kernels": _cuda_kernels(),
        "keras backend": _keras_backend(),
        "bridges": {framework: native.state(framework) for framework in native.FRAMEWORKS},
    }
    if mode == "dict":
        return config
    for section, content in config.items():
        lines = content.items() if isinstance(content, dict) else [("", content)]
        for name, value in lines:
            print(f"{section + ' ' + name:<28} {value}".rstrip())
    return None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu_kernels() -> dict[str, Any]:
    try:
        call = cython_cpu.core()
    except ImportError as error:
        return {"state": f"off: {error}"}
    return {
        "state": "on",
        "instructions": f"{cython_cpu.isa()} (of {', '.join(cython_cpu.isas())})",
        "threads": call.get_num_threads(),
    }


def _cuda_kernels() -> str:
    """Asked only where CuPy is loaded: that would load it, and start the GPU."""
    if "cupy" not in sys.modules:
        return "not in use: CuPy is not loaded"
    why = driver.why_not()
    return f"off: {why}" if why else "on: float16, bfloat16, float32, float64"


def _keras_backend() -> str:
    if "keras" in sys.modules:
        return str(sys.modules["keras"].backend.backend())
    chosen = os.environ.get("KERAS_BACKEND")
    return f"{chosen} (KERAS_BACKEND; Keras is not loaded)" if chosen else "Keras is not loaded"
