# SPDX-License-Identifier: Apache-2.0
"""What the native bridges share: each is opened, handed the kernels, and tested before it is used.

A bridge is a pair of files: `X.py`, the framework's side, and `X.c` or `X.cpp`, the machine's side,
a plain library that finds the framework's stable C functions at run time. `X.py` offers

    load()                           opens the library and registers, once; raises Unavailable
    probe(dtype)                     computes PROBE on an array; raises Unavailable
    serves(op, tensors)              whether a kernel may run on these tensors
    path(tensors)                    whose: "cython" (cython_cpu/) or "cupy" (kernels_cu/)
    run(op, tensors, values)         computes, differentiable in the framework's own way
    state()                          a line for show_config()
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from mlayers.config import chosen_path
from mlayers.cython_cpu import core
from mlayers.op import OPS, Op

FRAMEWORKS = ("jax", "tensorflow", "torch")
DTYPES = ("float32", "float64", "float16", "bfloat16")  # of the kernels


class Unavailable(Exception):
    """A bridge cannot be had here; the words say why, and end up in `show_config()`."""


# Besides the reasons a bridge knows, a name that a version of the framework does not have.
_NOT_HERE = (Unavailable, ImportError, AttributeError)


class _Scale:
    """The one attribute of `PROBE`."""

    name = "scale"
    kind = "int"

    def check(self, op: str, value: Any) -> Any:
        return value

    def encode(self, value: Any) -> Any:
        return value

    decode = encode


def _scaling(name: str, given: str, made: str, gradient: Op | None = None) -> Op:
    return Op(
        name=name,
        inputs=(given,),
        outputs=(made,),
        attributes=(_Scale(),),
        axes="...->...",
        shapes=lambda x, scale: (x,),
        reference=lambda x, scale: scale * x,
        composition=lambda xp, x, scale: scale * x,
        gradient=gradient,
    )


# out = scale * x, which a bridge must get right before it is trusted with an op.
PROBE = _scaling("probe", "x", "out", _scaling("probe_grad", "grad", "x_grad"))

_bridges: dict[str, Any] = {}  # framework -> its module, or why there is none
_lock = threading.RLock()


def bridge(framework: str) -> Any:
    """The bridge's module, loaded and tested once per process; None where it is unavailable."""
    return _bridges[framework] if _available(framework) else None


def _available(framework: str) -> bool:
    found = _bridges.get(framework)
    if found is None:
        with _lock:
            found = _bridges.get(framework)
            if found is None:
                found = _bridges[framework] = _load(framework)
    return not isinstance(found, str)


# torch.compile calls it while tracing and takes the answer as a constant, instead of tracing it: it
# cannot trace how a library is opened. torch.compiler.assume_constant_result sets this, but torch
# would have to be imported for that.
_available._dynamo_marked_constant = True  # type: ignore[attr-defined]


def why_not(framework: str) -> str:
    """Why `bridge` answered None."""
    return str(_bridges[framework])


def state(framework: str) -> str:
    """A line for `show_config()`; loads nothing that the program has not loaded."""
    if framework not in sys.modules:
        return f"not in use: {framework} is not loaded"
    module = bridge(framework)
    if module is None:
        return f"composition: {why_not(framework)}"
    return str(module.state())


def _load(framework: str) -> Any:
    try:
        module = import_module(f"mlayers.bridges.{framework}")
        module.load()
        # This may be the first call of an op, while a graph is traced, mapped or differentiated.
        # That is a state of a thread, and a new thread is in none of it.
        with ThreadPoolExecutor(1) as thread:
            for dtype in DTYPES:
                thread.submit(module.probe, dtype).result()
    except _NOT_HERE as error:
        if isinstance(error, Unavailable):
            return str(error)
        return f"the bridge is not for this version of {framework}: {error}"
    return module


def load_only(framework: str) -> None:
    """Register the framework's ops without testing them, which would start its devices."""
    with contextlib.suppress(*_NOT_HERE):  # as `bridge` will find too, and `state` say
        import_module(f"mlayers.bridges.{framework}").load()


def takes_kernel(op: Op, library: str, tensors: Sequence[Any], values: tuple[Any, ...]) -> bool:
    """Whether the kernel is the faster path, by what the op declares."""
    return op.kernel_wins is None or op.takes_kernel(
        library, [tuple(tensor.shape) for tensor in tensors], values
    )


# --- for the bridges ---


def gradient_takes_kernel(
    op: Op, library: str, tensors: Sequence[Any], values: tuple[Any, ...]
) -> bool:
    """Whether a gradient op that follows a kernel is to be a kernel too."""
    return chosen_path() != "auto" or takes_kernel(op, library, tensors, values)


def start(name: str, open_library: Callable[[str], Any] = ctypes.CDLL) -> Any:
    """Open the C half of a bridge and give it the kernels.

    Raises:
        Unavailable: it is not there, or misses a function of its framework.
    """
    try:
        kernels = core()
    except ImportError as error:
        raise Unavailable(str(error)) from error
    for probe in ("probe", "probe_grad"):
        kernels.register(probe, import_module("mlayers.cython_cpu._probe").PROBE)
    kernels.set_explainer(explain)
    library = open_library(str(library_path(name)))
    why = ctypes.create_string_buffer(512)
    library.mlayers_start.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    if not library.mlayers_start(kernels.runtime_address(), why, len(why)):
        raise Unavailable(why.value.decode())
    return library


def library_path(name: str) -> Path:
    """Where the compiled C half lies.

    Raises:
        Unavailable: there is none.
    """
    path = Path(__file__).with_name(f"libmlayers_{name}.so.1")
    if path.exists():
        return path
    raise Unavailable(f"no compiled bridge {path.name} beside {Path(__file__).parent}")


def called_from(*modules: str, function: str = "") -> bool:
    """Whether a function of one of these modules, which do not say so, is what calls us."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(modules) and (
            not function or frame.f_code.co_name == function
        ):
            return True
        frame = frame.f_back
    return False


def check_probe(found: Any, scale: int, x: np.ndarray[Any, Any]) -> None:
    """Raise Unavailable unless a bridge computed `PROBE` rightly."""
    if found.dtype != x.dtype or not np.array_equal(found, scale * x):
        raise Unavailable("its test failed: a kernel called through it gave a wrong result")


def explain(
    name: str,
    dtype: str,
    shapes: Sequence[tuple[int, ...]],
    ints: Sequence[int],
    floats: Sequence[float],
) -> str:
    """Why inputs do not fit, in the words of the front door; called on the way to an error."""
    op = OPS.get(name)
    if op is not None and len(shapes) == len(op.inputs):
        try:
            op.shapes(*shapes, **op.named(op.decode(ints, floats)))
        except (ValueError, TypeError) as error:
            return str(error)
    received = ", ".join(str(shape) for shape in shapes)
    return f"{name}: the inputs do not fit one another. Received: {dtype} arrays of {received}"
