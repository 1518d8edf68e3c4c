# SPDX-License-Identifier: Apache-2.0
"""Which blocks of weight_norm.cu to start."""

from __future__ import annotations

from mlayers.kernels_cu.plan import Launch, Plan, cover

ACROSS, THREADS = 32, 1024

Shape = tuple[int, ...]


def weight_norm(itemsize: int, kernel: Shape, norm: Shape) -> Plan:
    """The scaled kernel."""
    return _plan("weight_norm", ("kernel", "norm", "out"), kernel)


def weight_norm_grad(itemsize: int, grad: Shape, kernel: Shape, norm: Shape) -> Plan:
    """The gradients."""
    arrays = ("grad", "kernel", "norm", "kernel_grad", "norm_grad")
    return _plan("weight_norm_grad", arrays, kernel)


def _plan(name: str, arrays: tuple[str, ...], kernel: Shape) -> Plan:
    I, O = kernel  # noqa: E741
    return Plan((Launch(name, (cover(O, ACROSS), 1), THREADS, (*arrays, I, O)),))
