# SPDX-License-Identifier: Apache-2.0
"""JAX on a GPU: the call that jax_cuda.c answers, with the plan of the kernels written into it.

Shapes are known when a program is lowered, so Python plans then, and never runs again: the handler
reads from the program which kernels to start, with how many blocks and with which arguments. Used
by jax.py alone.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import struct
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.interpreters import mlir

from mlayers import kernels_cu
from mlayers.bridges import native
from mlayers.kernels_cu import driver, has, plan
from mlayers.kernels_cu.plan import Plan, Scratch
from mlayers.op import Op

TARGET = "mlayers_cuda"  # the one custom call target on a GPU

INTEGER, REAL, INPUT, OUTPUT, SCRATCH = range(5)  # what an argument is, as in jax_cuda.c

_Find = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p, ctypes.c_size_t,
)  # fmt: skip


@functools.cache
def why_not() -> str | None:
    """Why there are no kernels on the GPU, or None where there are."""
    if jax.default_backend() != "gpu":
        return "JAX sees no GPU"
    if jax.__version_info__ < (0, 6):
        return f"jax {jax.__version__} does not tell a kernel its device, as 0.6 does"
    try:
        native.library_path("jax_cuda")
    except native.Unavailable as error:
        return str(error)
    why: str | None = driver.why_not()
    return why


def load(platform: str = "CUDA") -> None:
    """Hand the handler to XLA."""
    library = ctypes.CDLL(str(native.library_path("jax_cuda")))
    library.mlayers_start_cuda(driver.provider.library.cuLaunchKernel, _find)
    handler = jax.ffi.pycapsule(library.mlayers_xla_cuda_call)
    jax.ffi.register_ffi_target(TARGET, handler, platform=platform)


@_Find  # type: ignore[untyped-decorator]
def _find(code: bytes, kernel: bytes, device: int, address: Any, why: int, room: int) -> None:
    """The address of a kernel; asked by jax_cuda.c the first time that a device needs it.

    Nothing is returned: what C would receive after an interrupt is undefined.
    """
    try:
        op, dtype, constants, version = json.loads(code)
        constants = _hashable(constants)
        if version != _version(op, dtype, constants):
            raise driver.CudaError(f"{op}: the program was compiled by another version of mlayers")
        address[0] = driver.function(op, dtype, constants, kernel.decode(), device)
    except Exception as error:  # which C cannot catch: it goes on as XLA's
        # ASCII, which can be cut anywhere: JAX has to read it as text.
        words = str(error).encode("ascii", "backslashreplace")[: room - 1] + b"\0"
        ctypes.memmove(why, words, len(words))


@functools.lru_cache(maxsize=1024)
def _version(op: str, dtype: str, constants: Any) -> str:
    """Of the kernels' text: a program that JAX kept on disk starts them as they were then."""
    text = kernels_cu.source(kernels_cu.module_of(op), dtype, constants)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _hashable(value: Any) -> Any:
    """Lists, which JSON made of tuples, as tuples again."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def lower(context: Any, *tensors: Any, op: Op, values: tuple[Any, ...]) -> Any | None:
    """The call in the language of XLA, or None where there is no kernel.

    Neither is there one where XLA may fuse the formula: alone that takes no longer than the kernel,
    and with what is around it less (lhuc_gate with its gradient: 281 against 371 us on an H100).
    """
    if op.is_fused("cuda", values):
        return None
    types = context.avals_in
    dtype = np.dtype(types[0].dtype).name
    shapes = tuple(tuple(kind.shape) for kind in types)
    if not has(op.name) or not all(isinstance(size, int) for shape in shapes for size in shape):
        return None
    chosen = plan(op.name, dtype, shapes, values)
    if chosen is None:
        return None
    rule = mlir.lower_fun(
        functools.partial(_call, op, values, dtype, chosen), multiple_results=True
    )
    return rule(context, *tensors)


def _call(
    op: Op, values: tuple[Any, ...], dtype: str, chosen: Plan, *tensors: Any
) -> tuple[Any, ...]:
    shapes = op.shapes(*(tensor.shape for tensor in tensors), **op.named(values))
    results = [jax.ShapeDtypeStruct(shape, tensors[0].dtype) for shape in shapes]
    if chosen.scratch:
        results.append(jax.ShapeDtypeStruct((chosen.scratch,), np.uint8))
    launches = [launch for launch in chosen.launches if 0 not in launch.blocks]
    numbers: list[int] = []
    for launch in launches:
        numbers += [*launch.blocks, launch.threads, launch.shared, len(launch.arguments)]
        for argument in launch.arguments:
            numbers += _pair(op, argument)
    code = [op.name, dtype, chosen.constants, _version(op.name, dtype, chosen.constants)]
    found = jax.ffi.ffi_call(TARGET, results)(
        *tensors,
        code=json.dumps(code, separators=(",", ":")),
        kernels=" ".join(launch.kernel for launch in launches),
        launches=np.array(numbers, np.int64),
    )
    return tuple(found[: len(shapes)])


def _pair(op: Op, argument: Any) -> Sequence[int]:
    """What an argument is, and its value."""
    if isinstance(argument, Scratch):
        return SCRATCH, argument.offset
    if isinstance(argument, float):
        return REAL, struct.unpack("<q", struct.pack("<d", argument))[0]
    if isinstance(argument, int):
        return INTEGER, argument
    if argument in op.inputs:
        return INPUT, op.inputs.index(argument)
    return OUTPUT, op.outputs.index(argument)
