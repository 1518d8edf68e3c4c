# SPDX-License-Identifier: Apache-2.0
"""The short way to a torch op of ours: plain tensors, run eagerly, under no transformation.

torch would call the op's autograd kernel (torch_rules.py), which is Python, only to be told what is
seen here at once. Without it ffm and its backward take 0.88 of the time at (64, 10, 12, 4), and
0.85 to 0.95 at (1024, 10, 12, 16).

A program calls with the same types, shapes and attributes again and again. Such calls are known
here once they have been checked and served, and then take the short way before anything is checked:
17 µs of a tiny call become 7, 70 with its backward 46.

A kernel leaves little of Python's code in the caches: at (1024, 10, 12, 16) each Python function on
the way costs 3 to 8 µs of 300. So `recall`, `forward` and `backward` call few, and repeat a line or
two of others instead.
Used by torch.py alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

from mlayers.bridges import torch_rules
from mlayers.config import chosen_path
from mlayers.op import Op

_PLAIN = frozenset((torch.Tensor, torch.nn.Parameter))
_PLAIN_VALUES = frozenset((int, str))  # where equal ones are the same: True == 1, -0.0 == 0.0
_signature = attrgetter("dtype", "shape", "device", "layout")  # all that is checked of a tensor
_BelowAutograd = torch._C._AutoDispatchBelowAutograd
_transforms_active = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack
_is_traced = torch._C._is_tracing


class ShortWay(NamedTuple):
    """An op for calls that `serves` accepts, from the torch op's arguments to its result."""

    differentiable: Callable[..., Any]  # autograd notes how
    kernel: Callable[..., Any]  # below autograd


# What a call is like -> its short way, and the attributes as that takes them.
_known: dict[tuple[Any, ...], tuple[ShortWay, tuple[Any, ...]]] = {}
_MOST_KNOWN = 1024  # batches may come in any size


def serves(tensors: Sequence[Any]) -> bool:
    """Whether nothing but autograd wants to know of a call with these tensors."""
    return _PLAIN.issuperset(map(type, tensors)) and not (
        _transforms_active() or _modes() or forward_ad._current_level >= 0
    )


def short_way(op: Op, overloads: torch_rules.Overloads) -> ShortWay:
    """The op for calls that `serves` accepts."""
    n = len(op.inputs)
    kernel = _bare(overloads[op.name])
    no_gradient = (None,) * len(op.attributes)  # each is one argument
    gradient = _gradient(op, overloads)

    def forward(ctx: Any, *arguments: Any) -> Any:
        ctx.save_for_backward(*arguments[:n])
        ctx.codes = arguments[n:]
        with _BelowAutograd():
            return kernel(*arguments)

    def backward(ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # a checkpoint computes them now, as autograd has to see
        if op.gradient is None or torch.is_grad_enabled():  # torch is to differentiate
            grads = torch_rules.gradients(op, overloads, saved, ctx.codes, upstream)
            return (*grads, *no_gradient)
        with _BelowAutograd():
            if gradient is None:
                grads = torch_rules.gradients(op, overloads, saved, ctx.codes, upstream)
            else:
                pick, gradient_kernel = gradient
                grads = gradient_kernel(*pick((*saved, *upstream)), *ctx.codes)
        return (*grads, *no_gradient)

    methods = {
        "forward": staticmethod(forward),
        # Compiled by itself it would read the saved tensors twice, which checkpoints forbid.
        "backward": staticmethod(torch.compiler.disable(backward)),
    }
    # Its `apply` is C alone. That of torch.autograd.Function first asks, in Python, for transforms.
    function: Any = type(op.name, (torch_rules._SingleLevelFunction,), methods)
    return ShortWay(function.apply, kernel)


def _gradient(op: Op, overloads: torch_rules.Overloads) -> tuple[Callable[..., Any], ...] | None:
    """The inputs of the gradient, from the op's and the upstream, and its kernel.

    None where more is to be done than to call that: a choice to make, a result to pack.
    """
    gradient = op.gradient
    if gradient is None or gradient.kernel_wins is not None or len(op.inputs) == 1:
        return None
    return itemgetter(*torch_rules.gradient_inputs(op, gradient)), _bare(overloads[gradient.name])


def _bare(overload: Any) -> Callable[..., Any]:
    """What a torch op calls, without the Python method that calls it."""
    bare: Callable[..., Any] = getattr(overload, "_op", overload)
    return bare


def run(way: ShortWay, tensors: Sequence[Any], codes: Sequence[Any]) -> Any:
    """The result of a call that `serves` accepts."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                return way.differentiable(*tensors, *codes)
    with _BelowAutograd():
        return way.kernel(*tensors, *codes)


def recall(op: Op, tensors: Sequence[Any], values: Sequence[Any]) -> Any:
    """The result of a call like one that is known, or None; for arguments not checked yet."""
    if _is_traced() or chosen_path() != "auto" or not _PLAIN_VALUES.issuperset(map(type, values)):
        return None
    if not _PLAIN.issuperset(map(type, tensors)):  # from here on as in `serves`
        return None
    if _transforms_active() or _modes() or forward_ad._current_level >= 0:
        return None
    known = _known.get((op, *values, *map(_signature, tensors)))
    if known is None:
        return None
    way, codes = known
    if torch.is_grad_enabled():  # from here on as in `run`
        for tensor in tensors:
            if tensor.requires_grad:
                return way.differentiable(*tensors, *codes)
    with _BelowAutograd():
        return way.kernel(*tensors, *codes)


def remember(
    op: Op, tensors: Sequence[Any], values: Sequence[Any], way: ShortWay, codes: tuple[Any, ...]
) -> None:
    """Make calls like this one known; it has been checked, and `serves` accepts it."""
    if chosen_path() != "auto" or not _PLAIN_VALUES.issuperset(map(type, values)):
        return
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[op, *values, *map(_signature, tensors)] = way, codes
