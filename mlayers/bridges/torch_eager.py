# SPDX-License-Identifier: Apache-2.0
"""The short way to a torch op of ours: plain tensors, run eagerly, under no transformation.

torch would call the op's autograd kernel (torch_rules.py), which is Python, only to be told what is
seen here at once. Without it ffm and its backward take 0.88 of the time at (64, 10, 12, 4), and
0.85 to 0.95 at (1024, 10, 12, 16), where the kernels leave little of Python's code in the caches.
Used by torch.py alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from mlayers.bridges import torch_rules
from mlayers.op import Op

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_BelowAutograd = torch._C._AutoDispatchBelowAutograd
_transforms_active = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack

Function = Callable[..., Any]  # from the torch op's arguments to its result


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
