# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's run-time compiler from its wheel: neither a GPU nor a driver nor CuPy is needed."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
from pathlib import Path
from typing import Any

# What ptxas says of a kernel, on several lines.
_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


class CompileError(RuntimeError):
    """The compiler's own words."""


@functools.cache
def library() -> Any:
    """The compiler; ImportError where its wheel is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        for path in sorted(Path(folder).rglob("libnvrtc.so.*")):
            return ctypes.CDLL(str(path))
    raise ImportError("libnvrtc is not here: pip install nvidia-cuda-nvrtc")


def compile(source: str, architecture: str, options: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Compile a .cu text to machine code.

    Returns:
        By kernel, its registers and how many bytes of them spill to memory.
    """
    program = ctypes.c_void_p()
    _check(library().nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None
    ))  # fmt: skip
    words = [o.encode() for o in (f"-arch={architecture}", "--ptxas-options=-v", *options)]
    code = library().nvrtcCompileProgram(
        program, len(words), (ctypes.c_char_p * len(words))(*words)
    )
    size = ctypes.c_size_t()
    _check(library().nvrtcGetProgramLogSize(program, ctypes.byref(size)))
    log = ctypes.create_string_buffer(size.value)
    _check(library().nvrtcGetProgramLog(program, log))
    library().nvrtcDestroyProgram(ctypes.byref(program))
    text = log.value.decode()
    if code or "warning" in text:
        raise CompileError(text)
    return {
        found["name"]: {
            "registers": int(found["registers"]),
            "spilled": int(found["stores"]) + int(found["loads"]),
        }
        for found in _KERNEL.finditer(text)
    }


def _check(code: int) -> None:
    if code:
        raise RuntimeError(f"NVRTC: error {code}")
