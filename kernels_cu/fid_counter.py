# SPDX-License-Identifier: Apache-2.0
"""Which blocks of fid_counter.cu to start."""

from __future__ import annotations

from mlayers.kernels_cu.plan import Plan, elementwise


def fid_counter(
    itemsize: int, counter: tuple[int, ...], counter_threshold: float, step: float
) -> Plan:
    """The counter."""
    arguments = ("counter", "out", ..., counter_threshold, step)
    return elementwise("fid_counter", itemsize, counter, *arguments)


def fid_counter_grad(
    itemsize: int, counter: tuple[int, ...], counter_threshold: float, step: float
) -> Plan:
    """The rule for its gradient."""
    arguments = ("counter", "counter_grad", ..., counter_threshold, step)
    return elementwise("fid_counter_grad", itemsize, counter, *arguments)
