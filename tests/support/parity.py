# SPDX-License-Identifier: Apache-2.0
"""Reads the numbers of the original Monolith from tests/data (see the README there)."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DATA = Path(__file__).parents[1] / "data"
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


class Case:
    """One case: `facts` from monolith.json, and the arrays by name as `case["default/y"]`."""

    def __init__(self, group: str, name: str, facts: dict[str, Any], flat: np.ndarray) -> None:
        self.group = group
        self.name = name
        self.facts = facts
        shapes = facts["arrays"].values()
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
        parts = np.split(flat, ends)
        if parts.pop().size:
            raise ValueError(f"{group}/{name}: the array is longer than its shapes say.")
        self.arrays = {
            key: part.reshape(shape)
            for (key, shape), part in zip(facts["arrays"].items(), parts, strict=True)
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __repr__(self) -> str:
        return f"{self.group}-{self.name}"

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's or the op's arguments."""
        return self.facts.get("arguments", {})

    def series(self, prefix: str) -> list[np.ndarray]:
        """The arrays prefix0, prefix1, ... for as many as there are."""
        found = []
        while f"{prefix}{len(found)}" in self.arrays:
            found.append(self.arrays[f"{prefix}{len(found)}"])
        return found

    def weights(self) -> dict[str, np.ndarray]:
        """The layer's weights by the original's variable names."""
        return {name: self[key] for name, key in self.facts["weights"].items()}

    def of_weights(self, template: str) -> dict[str, np.ndarray]:
        """Arrays that belong to weights, by variable name; `template` holds one `{}`."""
        named = {name: template.format(key) for name, key in self.facts["weights"].items()}
        return {name: self[key] for name, key in named.items() if key in self.arrays}


@cache
def _index() -> dict[str, dict[str, Any]]:
    return json.loads((DATA / "monolith.json").read_text())


@cache
def _arrays() -> dict[str, np.ndarray]:
    with np.load(DATA / "monolith.npz") as archive:
        return dict(archive)


def groups() -> list[str]:
    """The names of all groups in the fixture."""
    return list(_index())


def cases(*wanted: str) -> list[Any]:
    """All cases of some groups, as pytest parameters named `group-case`."""
    return [
        pytest.param(Case(group, name, facts, _arrays()[f"{group}/{name}"]), id=f"{group}-{name}")
        for group in wanted
        for name, facts in _index()[group].items()
    ]
