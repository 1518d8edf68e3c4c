# SPDX-License-Identifier: Apache-2.0
"""Every example of every op as torch sees it, for the tests of the torch bridge."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

import mlayers
from mlayers.bridges import native, torch_rules
from mlayers.op import OPS, Op
from support.array_checks import as_tuple


@dataclass
class Case:
    """An op with inputs and attributes."""

    name: str
    op: Op
    arrays: list[np.ndarray]
    attributes: dict[str, Any]
    takes_upstream: bool

    def __call__(self, *tensors: Any) -> Any:
        return getattr(mlayers, self.op.name)(*tensors, **self.attributes)

    def tensors(self, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
        return [torch.tensor(array, dtype=dtype) for array in self.arrays]

    @property
    def overload(self) -> Any:
        return getattr(torch.ops.mlayers, self.op.name).default

    def codes(self) -> tuple[Any, ...]:
        """The attributes as the torch op takes them."""
        parameters = inspect.signature(getattr(mlayers, self.op.name)).parameters
        given = {a.name: self.attributes.get(a.name, parameters[a.name].default)
                 for a in self.op.attributes}  # fmt: skip
        values = tuple(a.check(self.op.name, given[a.name]) for a in self.op.attributes)
        return torch_rules.encoded(self.op, values)


def cases() -> Iterator[Case]:
    """Every example of tests/ops, forward and gradient."""
    for module in sorted({op.module for op in OPS.values()}):
        for checks in vars(import_module(f"ops.test_{module}")).values():
            if isinstance(checks, type) and hasattr(checks, "examples"):
                for example in checks.examples:
                    for function, arrays in checks().calls(example):
                        op = OPS[function.__name__]
                        takes = checks.gradient_takes_upstream
                        yield Case(f"{op.name}-{example}", op, arrays, example.attributes, takes)


CASES = list(cases())
FORWARD = [case for case in CASES if case.op.gradient is not None]
FFM = next(case for case in FORWARD if case.op.name == "ffm")


def parameters(cases: list[Case]) -> Any:
    """A test for each case; skipped where this torch cannot have the op, and says why."""
    bridge = native.bridge("torch")
    assert bridge is not None, native.why_not("torch")
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(
                case,
                id=case.name,
                marks=pytest.mark.skipif(
                    case.op.name in bridge._refused, reason=bridge._refused.get(case.op.name, "")
                ),
            )
            for case in cases
        ],
    )


every_case = parameters(CASES)
every_forward = parameters(FORWARD)


def assert_close(found: Any, expected: Any) -> None:
    for one, other in zip(as_tuple(found), as_tuple(expected), strict=True):
        torch.testing.assert_close(one, other)


def targets(graph: Any) -> list[Any]:
    """What the nodes of an FX graph call."""
    return [node.target for node in graph.nodes if node.op == "call_function"]
