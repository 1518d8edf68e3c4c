# SPDX-License-Identifier: Apache-2.0
"""The short way to a torch op of ours: plain tensors, run eagerly, under no transformation.

torch would call the op's autograd kernel (torch_rules.py), which is Python, only to be told what is
seen here at once. Without it ffm and its backward take 0.88 of the time at (64, 10, 12, 4), and
0.85 to 0.95 at (1024, 10, 12, 16), where the kernels leave little of Python's code in the caches.

A program calls with the same types, shapes and attributes again and again. Such calls are known
here once they have been checked and served, and then take the short way before anything is checked.
That makes 17 µs of a tiny call 7, 70 with its backward 46, and 340 at (1024, 10, 12, 16) 300.
Used by torch.py alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch.autograd import forward_ad

from mlayers.bridges import torch_rules
from mlayers.config import chosen_path
from mlayers.op import Op

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_PLAIN_VALUES = frozenset((int, str))  # where equal ones are the same: True == 1, -0.0 == 0.0
_signature = attrgetter("dtype", "shape", "device", "layout")  # all that is checked of a tensor
_BelowAutograd = torch._C._AutoDispatchBelowAutograd
_transforms_active = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack
_is_traced = torch._C._is_tracing

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
    # Its `apply` is C alone. That of torch.autograd.Function first asks, in Python, for transforms.
    differentiable: Any = type(op.name, (torch_rules._SingleLevelFunction,), methods)

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
    if _is_traced() or chosen_path() != "auto" or not serves(tensors):
        return None
    if not _PLAIN_VALUES.issuperset(map(type, values)):
        return None
    known = _known.get((op, *values, *map(_signature, tensors)))
    if known is None:
        return None
    way, codes = known
    return way(*tensors, *codes)


def remember(
    op: Op, tensors: Sequence[Any], values: Sequence[Any], way: Function, codes: tuple[Any, ...]
) -> None:
    """Make calls like this one known; it has been checked, and `serves` accepts it."""
    if chosen_path() != "auto" or not _PLAIN_VALUES.issuperset(map(type, values)):
        return
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[op, *values, *map(_signature, tensors)] = way, codes
