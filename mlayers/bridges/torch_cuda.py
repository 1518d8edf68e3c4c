# SPDX-License-Identifier: Apache-2.0
"""torch on a GPU: what each torch op of ours runs for CUDA tensors.

The kernels of kernels_cu/ on torch's own stream and memory: no copy, no wait. Python starts them,
which torch.compile's graphs call like any op and CUDA graphs record. Used by torch.py alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from mlayers.bridges import native, torch_rules
from mlayers.kernels_cu import driver, plan
from mlayers.kernels_cu.plan import Plan
from mlayers.op import Op, Shape


@functools.cache
def why_not() -> str | None:
    """Why there are no kernels on the GPU, or None where there are; tests them once."""
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    why: str | None = driver.why_not()
    if why is not None:
        return why
    with ThreadPoolExecutor(1) as thread:  # this one may be tracing a graph, see native.py
        return thread.submit(_test).result()


def _test() -> str | None:
    """Compute `PROBE` in each dtype; what went wrong, or None."""
    try:
        for dtype in native.DTYPES:
            x = torch.arange(6.0, device="cuda").to(getattr(torch, dtype))
            (found,) = compute(native.PROBE, [x], (3,))
            if not torch.equal(found, 3 * x):
                return f"its test failed: a kernel gave a wrong result in {dtype}"
    except RuntimeError as error:
        return f"its test failed: {error}"
    return None


def kernel(op: Op) -> Callable[..., Any]:
    """What torch calls with CUDA tensors and the codes of the attributes."""
    n = len(op.inputs)

    def run(*arguments: Any) -> Any:
        return torch_rules.unpacked(op, compute(op, arguments[:n], arguments[n:]))

    return run


def compute(op: Op, tensors: Sequence[Any], codes: Sequence[Any]) -> tuple[Any, ...]:
    """Start the kernels; the composition where there are none for these shapes."""
    first = tensors[0]
    shapes = tuple([tuple(tensor.shape) for tensor in tensors])
    hashable = tuple([tuple(code) if isinstance(code, list) else code for code in codes])
    dtype, wanted, chosen = _planned(op, first.dtype, shapes, hashable)
    if chosen is None or driver.why_not() is not None:
        return torch_rules.composed(op, codes, *tensors)
    scratch = []

    def allocate(size: int) -> int:
        scratch.append(torch.empty(size, dtype=torch.uint8, device=first.device))
        return int(scratch[0].data_ptr())

    with torch.cuda.device(first.device):
        inputs = [_ready(tensor) for tensor in tensors]
        outputs = tuple([torch.empty(s, dtype=first.dtype, device=first.device) for s in wanted])
        pointers = [tensor.data_ptr() for tensor in (*inputs, *outputs)]
        stream = current_stream(first.device)
        driver.run(op, dtype, chosen, pointers, allocate, first.device.index, stream)
    return outputs


@functools.lru_cache(maxsize=4096)
def _planned(
    op: Op, torch_dtype: Any, shapes: tuple[Shape, ...], codes: tuple[Any, ...]
) -> tuple[str, tuple[Shape, ...], Plan | None]:
    """The dtype's name, the shapes of the outputs, and what to start; a call asks again and again.

    Raises:
        ValueError: a size does not fit that was not known before.
    """
    dtype = str(torch_dtype).removeprefix("torch.")
    values = torch_rules.decoded(op, codes)
    return dtype, op.shapes(*shapes, *values), plan(op.name, dtype, shapes, values)


def current_stream(device: Any) -> int:
    """The address of torch's stream there, without making an object of it first."""
    return int(torch._C._cuda_getCurrentRawStream(device.index))


def _ready(tensor: Any) -> Any:
    """In C order, beginning on 16 bytes: a kernel reads so many at once."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()
