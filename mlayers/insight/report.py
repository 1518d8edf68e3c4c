# SPDX-License-Identifier: Apache-2.0
"""What `feature_insight_report` returns: one row per field, as text, table, dict and picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import Any

from mlayers.insight._optional import load

COLOR = "#c0392b"
_LONGEST = 40  # characters of a name in the text table


@dataclass(frozen=True)
class FieldInsight:
    """How much one field adds to the outputs of a dense layer.

    Args:
        name: of the field.
        size: how many columns of the input are its own.
        mean: of the contribution, over the examples.
        mean_abs: of the absolute contribution.
        share: `mean_abs` as a fraction of the sum over all fields.
        correlation: Pearson's, of the contribution with the label, with several units along one
            direction; NaN where one of them is constant, `None` where no label was given.
    """

    name: str
    size: int
    mean: float
    mean_abs: float
    share: float
    correlation: float | None


@dataclass(frozen=True)
class FeatureInsightReport:
    """The contributions of all fields to a dense layer, as `feature_insight_report` explains them.

    It prints as a table, is drawn as one by Jupyter, and has a picture.

    Args:
        rows: a `FieldInsight` for each field, in the order of the columns.
        layer: name of the layer.
        units: how many outputs the dense layer has.
        n_examples: how many examples were looked at.

    Example:
        >>> rows = [FieldInsight("age", 1, -0.1, 0.5, 0.25, 0.1),
        ...         FieldInsight("item", 8, 0.2, 1.5, 0.75, -0.625)]
        >>> print(FeatureInsightReport(rows, "mlp", units=1, n_examples=1000))
        Feature insight of 'mlp': 1,000 examples, 1 unit
        field  size  mean  mean_abs   share  correlation
        item      8   0.2       1.5  75.0 %       -0.625
        age       1  -0.1       0.5  25.0 %        0.100
    """

    rows: list[FieldInsight]
    layer: str
    units: int
    n_examples: int

    def by_share(self) -> list[FieldInsight]:
        """Returns the rows, the largest share first."""
        return sorted(self.rows, key=lambda row: (math.isnan(row.share), -row.share))

    def to_dict(self) -> dict[str, Any]:
        """Returns the report in plain Python: the attributes, each row as a dict.

        Example:
            >>> row = FieldInsight("age", 1, 0.5, 0.5, 1.0, None)
            >>> FeatureInsightReport([row], "mlp", 1, 10).to_dict()["rows"][0]["share"]
            1.0
        """
        return asdict(self)

    def to_pandas(self) -> Any:
        """Returns a `pandas.DataFrame` with a row per field, in the order of the columns.

        Raises:
            ImportError: pandas is not installed.
        """
        pandas = load("pandas", "FeatureInsightReport.to_pandas")
        names = [field.name for field in fields(FieldInsight)]
        table = pandas.DataFrame([asdict(row) for row in self.rows], columns=names)
        return table.astype({"correlation": "float64"})

    def plot(self, axes: Any = None) -> Any:
        """Draws the shares as horizontal bars, the largest on top.

        Args:
            axes: the matplotlib `Axes` to draw on; `None` makes a figure.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        rows = self.by_share()
        if axes is None:
            pyplot = load("matplotlib.pyplot", "FeatureInsightReport.plot")
            size = (6.4, 1.2 + 0.28 * len(rows))
            axes = pyplot.subplots(figsize=size, layout="constrained")[1]
        places = range(len(rows))
        axes.barh(places, [100 * row.share for row in rows], color=COLOR)
        # A name is no formula, whatever dollar signs it has.
        axes.set_yticks(places, [row.name for row in rows], parse_math=False)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("share of the mean absolute contribution, %")
        axes.set_title(f"Feature insight of {self.layer}", parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return axes

    def __str__(self) -> str:
        header, *cells = self._cells()
        names = [
            name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name, *_ in cells
        ]
        table = [header, *([name, *row[1:]] for name, row in zip(names, cells, strict=True))]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in table
        ]
        return "\n".join([self._title(), *lines])

    def _repr_html_(self) -> str:
        header, *cells = self._cells()
        head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        lines = []
        for row, (name, *numbers) in zip(self.by_share(), cells, strict=True):
            columns = [f'<td style="text-align: left">{escape(name)}</td>']
            for title, number in zip(header[1:], numbers, strict=True):
                style = _bar(row.share) if title == "share" else ""
                columns.append(f"<td{style}>{number}</td>")
            lines.append(f"<tr>{''.join(columns)}</tr>")
        return (
            f"<table><caption>{escape(self._title())}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        )

    def _title(self) -> str:
        units = f"{self.units:,} unit{'s' * (self.units != 1)}"
        examples = f"{self.n_examples:,} example{'s' * (self.n_examples != 1)}"
        return f"Feature insight of {self.layer!r}: {examples}, {units}"

    def _cells(self) -> list[Sequence[str]]:
        """The table as text: a header, then the rows by share."""
        labelled = any(row.correlation is not None for row in self.rows)
        header = ["field", "size", "mean", "mean_abs", "share"]
        cells: list[Sequence[str]] = [[*header, "correlation"] if labelled else header]
        for row in self.by_share():
            numbers = [f"{row.size:,}", f"{row.mean:.4g}", f"{row.mean_abs:.4g}"]
            line = [" ".join(row.name.split()), *numbers, f"{100 * row.share:.1f} %"]
            cells.append(line if row.correlation is None else [*line, f"{row.correlation:.3f}"])
        return cells


def _bar(share: float) -> str:
    """The style of a table cell that shows its share as a bar."""
    if math.isnan(share):
        return ""
    end = f"{100 * share:.1f}%"
    return f' style="background: linear-gradient(90deg, {COLOR}40 {end}, transparent {end})"'
