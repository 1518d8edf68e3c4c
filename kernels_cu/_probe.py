# SPDX-License-Identifier: Apache-2.0
"""Which blocks of _probe.cu to start."""

from __future__ import annotations

from mlayers.kernels_cu.plan import Plan, elementwise


def probe(itemsize: int, x: tuple[int, ...], scale: int) -> Plan:
    """Multiply by a whole number."""
    return elementwise("probe", itemsize, x, "x", "out", ..., scale)


def probe_grad(itemsize: int, grad: tuple[int, ...], scale: int) -> Plan:
    """The gradient of that, which is the same."""
    return elementwise("probe", itemsize, grad, "grad", "x_grad", ..., scale)
