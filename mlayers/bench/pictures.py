# SPDX-License-Identifier: Apache-2.0
"""Rows as pictures: the roofline, and how time grows with each size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlayers.train.errors import CommandError

OURS, COMPOSED = "#c0392b", "#7f8c8d"
OTHERS = ("composed", "numpy", "cupy")  # how the columns of what ours is compared with begin
MARKERS = {"numpy": "s", "cupy": "s", "jax": "o", "tensorflow": "^", "torch": "D"}


def need_matplotlib(option: str) -> None:
    """Raise a sentence where it is not installed."""
    try:
        import matplotlib as _  # noqa: F401
    except ImportError as error:
        raise CommandError(
            f"bench: {option} needs matplotlib: pip install 'mlayers[train]'"
        ) from error


def draw_roofline(
    rows: Sequence[Mapping[str, Any]], bandwidth: float, peak: float, path: Path
) -> None:
    """Achieved against possible: operations per byte across, GFLOP/s up.

    Args:
        rows: of any framework; one panel for each framework.
        bandwidth: GB/s, the slope of the roof.
        peak: GFLOP/s, its height.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    by_framework: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_framework[row["framework"]].append(row)
    most = max(len(its_rows) for its_rows in by_framework.values())  # named below the axes
    figure = Figure(figsize=(5.4 * len(by_framework), 5.0 + 0.14 * most), dpi=120)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(by_framework), squeeze=False, sharey=True)[0]
    for axes, (framework, its_rows) in zip(panels, by_framework.items(), strict=True):
        xs = sorted({row["flops"] / row["bytes"] for row in its_rows} | {peak / bandwidth})
        ends = [xs[0] / 2, peak / bandwidth, xs[-1] * 2]
        axes.loglog(ends, [min(peak, bandwidth * x) for x in ends], color="black", lw=1)
        for number, row in enumerate(its_rows, 1):
            x = row["flops"] / row["bytes"]
            others = [t["median"] for c, t in row["us"].items() if c.startswith(OTHERS)]
            if others:
                axes.plot(x, row["flops"] / min(others) / 1e3, "o", color=COMPOSED, ms=5)
            axes.plot(x, row["gflops"], MARKERS[framework], color=OURS, ms=6)
            axes.annotate(
                str(number), (x, row["gflops"]), xytext=(5, 3), textcoords="offset points",
                fontsize=7,
            )  # fmt: skip
        names = [
            f"{i} {row['op']} {tuple(row['shape'])} {row['direction']}"
            for i, row in enumerate(its_rows, 1)
        ]
        axes.set_xlabel("operations per byte\n" + "\n".join(names), fontsize=7, loc="left")
        axes.set_title(framework)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("GFLOP/s")
    figure.suptitle(
        f"red: mlayers, grey: the best other\nroof: {bandwidth:.0f} GB/s, {peak:.0f} GFLOP/s; "
        "above it: in the caches",
        fontsize=9,
    )
    figure.savefig(path)


def draw_growth(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Time over each size that was varied: one panel a size, one colour a framework.

    Args:
        rows: with `varied`, such as `"dot, D"`, and `size`.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        panels[row["varied"]][row["framework"]].append(row)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * lines), dpi=120)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (varied, frameworks) in zip(grid, panels.items(), strict=False):
        for number, (framework, its_rows) in enumerate(frameworks.items()):
            sizes = [row["size"] for row in its_rows]
            for prefixes, style in ((("ours",), "-"), (OTHERS, "--")):
                best = [
                    min(t["median"] for c, t in row["us"].items() if c.startswith(prefixes))
                    for row in its_rows
                ]
                label = f"{framework}, {'mlayers' if style == '-' else 'best other'}"
                axes.loglog(
                    sizes, best, style, color=f"C{number}", marker=MARKERS[framework], ms=4,
                    label=label,
                )  # fmt: skip
        axes.set_title(varied, fontsize=9)
        axes.set_xlabel(varied.split(", ")[1])
        axes.set_ylabel("µs, forward")
        axes.grid(alpha=0.3)
    grid[0].legend(fontsize=7, handlelength=4)
    figure.savefig(path)
