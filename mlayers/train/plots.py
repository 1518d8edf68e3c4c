# SPDX-License-Identifier: Apache-2.0
"""The two pictures: which groups raise or silence which units, and the AUC after each epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mlayers.train.encoder import Encoder
from mlayers.train.table import as_floats, as_text, is_category

MOST_GROUPS, QUARTERS = 20, 4
LHUC_COLOR, MLP_COLOR = "#c0392b", "#7f8c8d"


def mean_gates(column: pd.Series[Any], gates_bu: np.ndarray) -> pd.DataFrame:
    """The mean gate of each unit over the rows of each group: groups × units.

    A group is a value of a category column (the commonest ones, in the order of their names), or a
    quarter of the values of a float column; the rows without a value are a group too.
    """
    name = str(column.name)
    if is_category(column):
        groups = as_text(column, name).fillna("(missing)").reset_index(drop=True)
        common = groups.value_counts().index[:MOST_GROUPS]
        order = sorted(
            common, key=lambda text: (not text.isdigit(), len(text) * text.isdigit(), text)
        )
    else:
        floats = pd.Series(as_floats(column, name))
        if floats.nunique() > QUARTERS:
            floats = pd.qcut(floats, QUARTERS, duplicates="drop", precision=2)
        order = [*map(str, sorted(floats.dropna().unique()))]
        order += ["(missing)"] if floats.isna().any() else []
        groups = floats.astype("string").fillna("(missing)")
    return pd.DataFrame(gates_bu).groupby(groups.to_numpy()).mean().reindex(order)


def draw_gates(
    encoder: Encoder, table: pd.DataFrame, gates: Sequence[np.ndarray], path: Path
) -> None:
    """A heat map for each gate field (down) and layer (across).

    Args:
        encoder: names the gate fields.
        table: the rows that the gates were computed for.
        gates: one (B, units) array a layer.
        path: the PNG to write.
    """
    maps = [[mean_gates(table[name], gates_bu) for gates_bu in gates] for name in encoder.gate]
    heights = [max(3, len(row[0])) for row in maps]
    widths = [12 + gates_bu.shape[1] for gates_bu in gates]
    figure = Figure(figsize=(11, 1.9 + 0.26 * sum(heights) + 0.6 * (len(maps) - 1)), dpi=130)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(
        len(maps), len(gates), squeeze=False, height_ratios=heights, width_ratios=widths
    )
    limit = max(float(np.nanmax(np.abs(mean - 1.0))) for row in maps for mean in row) or 1.0
    for row, name in enumerate(encoder.gate):
        for layer, mean_gu in enumerate(maps[row]):
            # Units raised by the same group stand side by side.
            units = np.argsort(mean_gu.to_numpy().argmax(axis=0), kind="stable")
            axis = axes[row, layer]
            image = axis.imshow(
                mean_gu.to_numpy()[:, units],
                cmap="RdBu_r",
                vmin=1.0 - limit,
                vmax=1.0 + limit,
                aspect="auto",
                interpolation="nearest",
            )
            axis.set_xticks([])
            axis.set_xlabel(f"{mean_gu.shape[1]} units of layer {layer + 1}")
            labels = [_short(str(group)) for group in mean_gu.index] if layer == 0 else []
            axis.set_yticks(range(len(labels)), labels, fontsize=9)
            axis.spines[:].set_visible(False)
            axis.tick_params(length=0)
        cut = len(maps[row][0]) == MOST_GROUPS < table[name].nunique()
        shown = f"{name} ({MOST_GROUPS} commonest)" if cut else name
        axes[row, 0].set_ylabel(shown, fontsize=11)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.015)
    bar.set_label("mean gate: above 1 raised, below 1 silenced")
    bar.outline.set_visible(False)
    figure.suptitle("Which groups raise (red) or silence (blue) which hidden units")
    figure.savefig(path)


def draw_auc(histories: Mapping[str, Sequence[float]], ceiling: float | None, path: Path) -> None:
    """Validation AUC after each epoch, a dot at the epoch whose weights were kept.

    Args:
        histories: the two models' values, the gated one's first.
        ceiling: the AUC of the true probabilities, where they are known.
        path: the PNG to write.
    """
    figure = Figure(figsize=(7, 4.2), dpi=130)
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    for (name, values), color in zip(histories.items(), (LHUC_COLOR, MLP_COLOR), strict=True):
        epochs, best = range(1, len(values) + 1), int(np.argmax(values))
        axis.plot(epochs, values, color=color, linewidth=2, marker=".", label=name)
        axis.plot(best + 1, values[best], "o", color=color, markersize=9)
    if ceiling is not None:
        axis.axhline(ceiling, color="black", linestyle=":", linewidth=1.2, label="best possible")
    axis.set_xlabel("epoch")
    axis.set_ylabel("AUC on the validation part")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right")
    axis.set_title("AUC per epoch (large dot: the epoch that was kept)", fontsize=11)
    figure.savefig(path)


def _short(text: str, most: int = 22) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
