# SPDX-License-Identifier: Apache-2.0
"""Which blocks of lhuc_gate.cu to start."""

from __future__ import annotations

from mlayers.kernels_cu.plan import Plan, elementwise


def lhuc_gate(itemsize: int, hidden: tuple[int, ...], logits: tuple[int, ...]) -> Plan:
    """The gate."""
    return elementwise("lhuc_gate", itemsize, hidden, "hidden", "logits", "out", ...)


def lhuc_gate_grad(
    itemsize: int, grad: tuple[int, ...], hidden: tuple[int, ...], logits: tuple[int, ...]
) -> Plan:
    """Its gradients."""
    arrays = ("grad", "hidden", "logits", "hidden_grad", "logits_grad")
    return elementwise("lhuc_gate_grad", itemsize, hidden, *arrays, ...)
