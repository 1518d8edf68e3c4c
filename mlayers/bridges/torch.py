# SPDX-License-Identifier: Apache-2.0
"""torch: each op is a torch op, `torch.ops.mlayers.ffm` and the like.

On the CPU its kernel is in C++ (torch.cpp), without Python and its GIL; on a GPU torch_cuda.py
starts the CUDA kernels. What torch's transformations want to know of an op is derived here from
the declaration:

    shapes          `Op.shapes`, with symbolic sizes under torch.compile
    gradient        the op's own gradient, which is a torch op too; the gradient of that, and of an
                    op without one, is torch's of the composition, so second derivatives work
    forward mode    torch's of the composition
    vmap            the mapped axis is folded into the batch where `Op.axes` allows it; else the
                    composition is mapped

An exported program (torch.export) holds the torch op and is loaded where mlayers is imported. What
Keras' Model.export, ONNX and torch.jit.trace make is to be run elsewhere: it holds the composition.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from mlayers.bridges import RECALL, native, torch_cuda, torch_eager, torch_rules
from mlayers.op import OPS, Op

# Kernels get each of these as it is. Other subclasses (DTensor) mean more than their numbers.
_KINDS = (torch.Tensor, torch.nn.Parameter, FakeTensor, FunctionalTensor)
_DTYPES = tuple(getattr(torch, name) for name in native.DTYPES)  # older torch traces no sets
_CPU = torch.device("cpu")

_library: Any = None  # the C half
_namespace: Any = None  # torch's record of our definitions, which it forgets with this object
_overloads: dict[str, Any] = {}  # op -> its torch op; None where it has none here
_short_ways: dict[str, torch_eager.ShortWay] = {}  # op -> the same for eager calls
_refused: dict[str, str] = {}  # op -> why it has none
_lock = threading.RLock()


@functools.cache
def load() -> None:
    """Define every op declared so far, once; raises Unavailable where this torch cannot."""
    global _library, _namespace
    _library = native.start("torch")
    numbers = [ctypes.c_int32] * 5
    _library.mlayers_torch_register.argtypes = [
        ctypes.c_char_p, *numbers, ctypes.c_char_p, ctypes.c_size_t
    ]  # fmt: skip
    _namespace = torch.library.Library("mlayers", "FRAGMENT")
    _define(native.PROBE)
    for name in OPS:
        _define_once(name)
    RECALL["torch"] = torch_eager.recall


def probe(dtype: str) -> None:
    """Compute `PROBE` through torch; raises Unavailable where the result is wrong."""
    x = np.arange(6, dtype="float64").reshape(2, 3)  # exact in every dtype; NumPy lacks bfloat16
    tensor = torch.from_numpy(x.T.copy()).T.to(getattr(torch, dtype)).requires_grad_()
    (out,) = run(native.PROBE, [tensor], (3,))  # of one that is not contiguous
    (grad,) = torch.autograd.grad(out.sum(), tensor)
    if out.dtype is not tensor.dtype or grad.dtype is not tensor.dtype:
        raise native.Unavailable(f"its test failed: a kernel made {out.dtype} of {tensor.dtype}")
    native.check_probe(out.detach().double().numpy(), 3, x)
    native.check_probe(grad.double().numpy(), 3, np.ones_like(x))


def state() -> str:
    """A line for `show_config()`."""
    composed = "".join(f"; {name} composed: {why}" for name, why in _refused.items())
    why = torch_cuda.why_not()
    gpu = f"composition on a GPU ({why})" if why else "kernels on the GPU"
    return f"kernels on the CPU, as torch.ops.mlayers; {gpu}{composed}"


def serves(op: Op, tensors: Sequence[Any]) -> bool:
    """Whether the kernel takes these tensors: dense, on the CPU or a GPU."""
    device = tensors[0].device
    if device != _CPU and (device.type != "cuda" or _why_not_on_gpu() is not None):
        return False
    for tensor in tensors:
        if (
            tensor.dtype not in _DTYPES
            or type(tensor) not in _KINDS
            or tensor.device != device
            or tensor.layout is not torch.strided
        ):
            return False
    if torch.jit.is_tracing() or (torch.compiler.is_exporting() and _leaves_mlayers()):
        return False
    return _is_defined(op.name)


def run(op: Op, tensors: Sequence[Any], values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Compute `op` on tensors that `serves` accepts; differentiable."""
    if torch.compiler.is_compiling():
        results = _overloads[op.name](*tensors, *torch_rules.encoded(op, values))
    else:
        codes = torch_rules.encoded_before(op, values)
        if torch_eager.serves(tensors):
            way = _short_ways[op.name]
            results = torch_eager.run(way, tensors, codes)
            torch_eager.remember(op, tensors, values, way, codes)
        else:
            results = _overloads[op.name](*tensors, *codes)
    return torch_rules.packed(op, results)


# --- definitions ---


def _define_once(name: str) -> bool:
    """Make a declared op a torch op, unless that was tried before; whether it is one."""
    if name not in _overloads:
        with _lock:
            if name not in _overloads:
                _define(OPS[name])
    return _overloads[name] is not None


def _exported_for_elsewhere() -> bool:
    """Whether the export under way is one that has to run without this package."""
    return native.called_from("keras.src.export", "torch.onnx")


def _no_gpu() -> str | None:
    """Why a GPU has no kernels. Not the cached function itself: dynamo would trace that."""
    return torch_cuda.why_not()


def path(tensors: Sequence[Any]) -> str:
    """Which kernels would take these tensors: `"cython"` or `"cupy"`."""
    return "cython" if tensors[0].device == _CPU else "cupy"


# torch.compile calls these while tracing, instead of tracing them, which it cannot.
_is_defined: Callable[[str], bool] = torch.compiler.assume_constant_result(_define_once)
_why_not_on_gpu: Callable[[], str | None] = torch.compiler.assume_constant_result(_no_gpu)
_leaves_mlayers: Callable[[], bool] = torch.compiler.assume_constant_result(_exported_for_elsewhere)


def _define(op: Op) -> None:
    """Make an op and its gradient torch ops, or note why this torch cannot have them."""
    if op.gradient is not None and op.gradient.name not in _overloads:
        _define(op.gradient)
    if op.gradient is not None and _overloads[op.gradient.name] is None:
        _refuse(op, _refused[op.gradient.name])
        return
    why = ctypes.create_string_buffer(512)
    kinds = [torch_rules.count(op, kind) for kind in torch_rules.KINDS]
    numbers = [len(op.inputs), *kinds, len(op.outputs)]
    if not _library.mlayers_torch_register(op.name.encode(), *numbers, why, len(why)):
        _refuse(op, why.value.decode())
        return
    _namespace.define(_schema(op), tags=_tags())
    fake = functools.partial(_fake, op)
    torch.library.register_fake(f"mlayers::{op.name}", fake, lib=_namespace)
    for key, kernel in torch_rules.kernels(op, _overloads).items():
        _namespace.impl(op.name, kernel, key, with_keyset=True)
    _namespace.impl(op.name, torch_cuda.kernel(op), "CUDA")
    _overloads[op.name] = getattr(torch.ops.mlayers, op.name).default
    _short_ways[op.name] = torch_eager.short_way(op, _overloads)


def _refuse(op: Op, why: str) -> None:
    _refused[op.name] = why
    _overloads[op.name] = None


def _schema(op: Op) -> str:
    """Such as `"ffm(Tensor left, Tensor right, int dim_size, int int_type) -> Tensor"`."""
    attributes = sorted(op.attributes, key=lambda a: torch_rules.KINDS.index(a.kind))
    arguments = [f"Tensor {name}" for name in op.inputs]
    arguments += [f"{a.kind} {a.name}" for a in attributes]
    outputs = ", ".join("Tensor" for _ in op.outputs)
    result = outputs if len(op.outputs) == 1 else f"({outputs})"
    return f"{op.name}({', '.join(arguments)}) -> {result}"


def _tags() -> list[Any]:
    """What inductor may do: it is to write contiguous inputs, or the kernel has to copy them."""
    names = ("needs_contiguous_strides", "needs_exact_strides")  # the first since torch 2.9
    layouts = [getattr(torch.Tag, name) for name in names if hasattr(torch.Tag, name)]
    return [torch.Tag.pt2_compliant_tag, *layouts[:1]]


def _fake(op: Op, *arguments: Any) -> Any:
    """Outputs without numbers, for tracing; raises the front door's errors."""
    tensors, codes = arguments[: len(op.inputs)], arguments[len(op.inputs) :]
    shapes = op.shapes(*(tuple(t.shape) for t in tensors), *torch_rules.decoded(op, codes))
    like = tensors[0]
    outputs = tuple(torch.empty(s, dtype=like.dtype, device=like.device) for s in shapes)
    return torch_rules.unpacked(op, outputs)
