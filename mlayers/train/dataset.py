# SPDX-License-Identifier: Apache-2.0
"""What a training run starts from: rows, labels and their split, from a file or generated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlayers.train import click_log
from mlayers.train.errors import DataError, UsageError
from mlayers.train.options import TrainOptions
from mlayers.train.table import check_both_classes, read_label, read_table, read_time

SHARES = {"training": 0.8, "validation": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Part:
    """One part of the split."""

    table: pd.DataFrame
    label: np.ndarray
    probability: np.ndarray | None  # the true one, where the log is generated


@dataclass(frozen=True)
class Dataset:
    """The parts by name, and which columns are in which group (left, right, gate)."""

    parts: dict[str, Part]
    groups: dict[str, tuple[str, ...]]
    label_name: str


def load_dataset(options: TrainOptions) -> Dataset:
    """Reads or generates the rows and splits them.

    Raises:
        DataError: for a file or a column that cannot be used, or a part with one class only.
        UsageError: for a file without the name of its label.
    """
    if options.data is None:
        log = click_log.generate_click_log(options.rows, options.seed)
        label = log.table[click_log.LABEL].to_numpy("float32")
        order = _random_order(len(label), options.seed)
        parts = _split(log.table, label, order, click_log.LABEL, log.probability)
        groups = {"left": click_log.LEFT, "right": click_log.RIGHT, "gate": click_log.GATE}
        return Dataset(parts, groups, click_log.LABEL)
    name = options.label
    if name is None:
        raise UsageError("--data needs --label too.")
    groups = {"left": options.left, "right": options.right, "gate": options.gate}
    fields = list(dict.fromkeys((*options.left, *options.right, *options.gate)))
    columns = dict.fromkeys([*fields, name, *([options.time] if options.time else [])])
    table = read_table(options.data, list(columns), options.sep, fields)
    try:
        label = read_label(table[name], name, options.positive_from)
        if options.time:
            order = np.argsort(read_time(table[options.time], options.time), kind="stable")
        else:
            order = _random_order(len(label), options.seed)
        return Dataset(_split(table, label, order, name), groups, name)
    except DataError as error:
        raise DataError(f"{options.data}: {error}") from error


def _random_order(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(rows)


def _split(
    table: pd.DataFrame,
    label: np.ndarray,
    order: np.ndarray,
    name: str,
    probability: np.ndarray | None = None,
) -> dict[str, Part]:
    """The first 80 % of `order`, the next 10 % and the last 10 %."""
    ends = np.round(np.cumsum([*SHARES.values()]) * len(order)).astype(int)
    parts = {}
    for part, rows in zip(SHARES, np.split(order, ends[:-1]), strict=True):
        check_both_classes(label[rows], f"the {part} part of {name!r}")
        true = None if probability is None else probability[rows]
        parts[part] = Part(table.iloc[rows], label[rows], true)
    return parts
