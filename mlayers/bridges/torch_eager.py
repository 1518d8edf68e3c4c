# SPDX-License-Identifier: Apache-2.0
"""The short way to a torch op of ours: plain tensors, run eagerly, under no transformation.

torch would call the op's autograd kernel (torch_rules.py), which is Python, only to be told what is
seen here at once. Without it ffm and its backward take 0.88 of the time at (64, 10, 12, 4), and
0.85 to 0.95 at (1024, 10, 12, 16), where the kernels leave little of Python's code in the caches.

A program calls with the same types, shapes and attributes again and again. Such calls are known
here once they have been checked and served, and then take the short way before anything is checked.
That makes 17 µs of a tiny call 9, and of its backward's 70 52; 340 at (1024, 10, 12, 16) are 300.
Used by torch.py alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from mlayers.bridges import torch_rules
from mlayers.config import chosen_path
from mlayers.op import Op

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_PLAIN_VALUES = frozenset((int, str))
_BelowAutograd = torch._C._AutoDispatchBelowAutograd
_transforms_active = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack

Function = Callable[..., Any]  # from the torch op's arguments to its result

# What a call is like -> its short way, and the attributes as that takes them.
_known: dict[tuple[Any, ...], tuple[Function, tuple[Any, ...]]] = {}
_MOST_KNOWN = 1024  # batches may come in any size


def serves(tensors: Sequence[Any]) -> bool:
    """Whether nothing but autograd wants to know of a call with these tensors."""
    for tensor in tensors:
        if type(tensor) not in _PLAIN:
            return False
    return not (_transforms_active() or _modes() or forward_ad._current_level >= 0)


def function(op: Op, overloads: torch_rules.Overloads) -> Function:
    """The op as a function of the torch op's arguments, for calls that `serves` accepts."""
    n = len(op.inputs)
    overload = overloads[op.name]
    no_gradient = (None,) * len(op.attributes)  # each is one argument

    def forward(ctx: Any, *arguments: Any) -> Any:
        ctx.save_for_backward(*arguments[:n])
        ctx.codes = arguments[n:]
        with _BelowAutograd():
            return overload(*arguments)

    def backward(ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # a checkpoint computes them now, as autograd has to see
        if torch.is_grad_enabled() or op.gradient is None:  # torch is to differentiate
            grads = torch_rules.gradients(op, overloads, saved, ctx.codes, upstream)
        else:
            with _BelowAutograd():
                grads = torch_rules.gradients(op, overloads, saved, ctx.codes, upstream)
        return (*grads, *no_gradient)

    methods = {
        "forward": staticmethod(forward),
        # Compiled by itself it would read the saved tensors twice, which checkpoints forbid.
        "backward": staticmethod(torch.compiler.disable(backward)),
    }
    differentiable: Any = type(op.name, (torch.autograd.Function,), methods)

    def call(*arguments: Any) -> Any:
        if torch.is_grad_enabled():
            for tensor in arguments[:n]:
                if tensor.requires_grad:
                    return differentiable.apply(*arguments)
        with _BelowAutograd():
            return overload(*arguments)

    return call


def recall(op: Op, tensors: Sequence[Any], values: Sequence[Any]) -> Any:
    """The result of a call like one that is known, or None; for arguments not checked yet."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or chosen_path() != "auto":
        return None
    if not serves(tensors) or not _all_plain(values):
        return None
    known = _known.get(_signature(op, tensors, values))
    if known is None:
        return None
    way, codes = known
    return way(*tensors, *codes)


def remember(
    op: Op, tensors: Sequence[Any], values: Sequence[Any], way: Function, codes: tuple[Any, ...]
) -> None:
    """Make calls like this one known; it has been checked, and `serves` accepts it."""
    if chosen_path() != "auto" or not _all_plain(values):
        return
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[_signature(op, tensors, values)] = way, codes


def _all_plain(values: Sequence[Any]) -> bool:
    """Whether values that are equal, and of the same types, are the same to every check."""
    # True == 1 and -0.0 == 0.0, so other types are not plain.
    return _PLAIN_VALUES.issuperset(map(type, values))


def _signature(op: Op, tensors: Sequence[Any], values: Sequence[Any]) -> tuple[Any, ...]:
    """All that checks and dispatch ask about."""
    tensors_are = [(t.dtype, t.shape, t.device, t.layout) for t in tensors]
    return (op, *values, *tensors_are)
