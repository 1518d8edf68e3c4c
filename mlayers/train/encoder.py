# SPDX-License-Identifier: Apache-2.0
"""Columns to arrays: categories to ids of one embedding table, floats to standardised numbers.

Everything is learned from the training part alone and saved as features.json beside the model.
Each category field owns a run of ids: its first id is for values never seen, the second for missing
ones, then one for each value. Missing floats become the mean.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlayers.train.errors import DataError
from mlayers.train.table import as_floats, as_text, is_category

UNSEEN, MISSING, FIRST = 0, 1, 2
# This share of each category column is hidden (made "unseen") while training, so that the vector
# of unseen values is one the model has learned to predict with.
HIDDEN_SHARE = 0.02


@dataclass(frozen=True)
class Category:
    """A field of categories: whole numbers, text or bools."""

    name: str
    values: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many ids the field owns."""
        return FIRST + len(self.values)

    def encode(self, column: pd.Series[Any]) -> np.ndarray:
        """(B,) int32, counted from this field's first id."""
        text_b = as_text(column, self.name)
        ids_b = pd.Index(self.values, dtype="string").get_indexer(text_b) + FIRST
        ids_b[ids_b < FIRST] = UNSEEN
        ids_b[text_b.isna().to_numpy()] = MISSING
        return np.asarray(ids_b, "int32")


@dataclass(frozen=True)
class Number:
    """A field of floats."""

    name: str
    mean: float
    std: float

    def encode(self, column: pd.Series[Any]) -> np.ndarray:
        """(B,) float32 of mean 0 and standard deviation 1 over the training part."""
        numbers_b = as_floats(column, self.name)
        standard_b = (numbers_b - self.mean) / self.std
        return np.nan_to_num(standard_b, nan=0.0).astype("float32")


@dataclass(frozen=True)
class Encoder:
    """All fields of a model and the groups they are in."""

    categories: tuple[Category, ...]
    numbers: tuple[Number, ...]
    left: tuple[str, ...]
    right: tuple[str, ...]
    gate: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The fields in the order in which the model stacks them."""
        categories = tuple(field.name for field in self.categories)
        return categories + tuple(field.name for field in self.numbers)

    @property
    def vocabulary(self) -> int:
        """How many ids there are in all."""
        return sum(field.size for field in self.categories)

    @property
    def offsets(self) -> np.ndarray:
        """(C,): the first id of each category field."""
        sizes = [0, *(field.size for field in self.categories)]
        return np.cumsum(sizes[:-1], dtype="int32")[: len(self.categories)]

    def encode(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """The model's inputs: "categories" (B, C) int32 and "numbers" (B, F) float32, if any."""
        inputs = {}
        if self.categories:
            ids_cb = [field.encode(table[field.name]) for field in self.categories]
            inputs["categories"] = np.stack(ids_cb, axis=1) + self.offsets
        if self.numbers:
            numbers_fb = [field.encode(table[field.name]) for field in self.numbers]
            inputs["numbers"] = np.stack(numbers_fb, axis=1)
        return inputs

    def hide_some(self, inputs: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
        """A copy of training inputs with a small share of the categories made unseen."""
        if "categories" not in inputs:
            return inputs
        ids_bc = inputs["categories"]
        hidden_bc = np.random.default_rng(seed).random(ids_bc.shape) < HIDDEN_SHARE
        return {**inputs, "categories": np.where(hidden_bc, self.offsets + UNSEEN, ids_bc)}

    def unseen_shares(self, inputs: dict[str, np.ndarray]) -> dict[str, float]:
        """For each category field the share of rows whose value was not in the training part."""
        if not self.categories:
            return {}
        shares_c = (inputs["categories"] == self.offsets + UNSEEN).mean(axis=0)
        names = [field.name for field in self.categories]
        return dict(zip(names, shares_c.tolist(), strict=True))

    def save(self, path: Path) -> None:
        """Writes features.json."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Encoder:
        """Reads features.json."""
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                categories=tuple(
                    Category(field["name"], _spelled_as_now(field["name"], field["values"], path))
                    for field in saved["categories"]
                ),
                numbers=tuple(Number(**field) for field in saved["numbers"]),
                **{group: tuple(saved[group]) for group in ("left", "right", "gate")},
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: is not a features.json written by train: {error}") from error


def _spelled_as_now(name: str, values: Sequence[str], path: Path) -> tuple[str, ...]:
    """Saved categories as `as_text` spells them; before, a column with text kept "5.0"."""
    text = as_text(pd.Series(values, dtype="string"), name)
    if (twice := text.duplicated()).any():
        raise DataError(
            f"{path}: each category of {name!r} must be there once, and 5 and 5.0 are one; train "
            f"again. Received: {text[twice].iloc[0]!r} twice"
        )
    return tuple(text)


def fit_encoder(
    training: pd.DataFrame,
    left: Sequence[str],
    right: Sequence[str],
    gate: Sequence[str],
    min_count: int = 1,
) -> Encoder:
    """Learns the categories, means and standard deviations of the training part.

    Args:
        training: the training rows.
        left: the columns that interact with those of `right`.
        right: the columns that interact with those of `left`.
        gate: the columns that drive the gates; they may be in `left` or `right` too.
        min_count: a category seen less often gets no id of its own and counts as unseen.

    Raises:
        DataError: for a column that is neither categories nor numbers, or has no value at all.
    """
    categories, numbers = [], []
    for name in dict.fromkeys((*left, *right, *gate)):
        column = training[name]
        category = is_category(column)
        values_b = as_text(column, name) if category else pd.Series(as_floats(column, name))
        if values_b.isna().all():
            raise DataError(f"column {name!r} has no value in the {len(column)} training rows.")
        if category:
            counts = values_b.value_counts()
            values = sorted(counts.index[counts >= min_count], key=lambda text: (len(text), text))
            categories.append(Category(name, tuple(map(str, values))))
        else:
            deviation = float(np.nanstd(values_b))
            numbers.append(Number(name, float(np.nanmean(values_b)), deviation or 1.0))
    return Encoder(tuple(categories), tuple(numbers), tuple(left), tuple(right), tuple(gate))
