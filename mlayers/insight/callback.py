# SPDX-License-Identifier: Apache-2.0
"""The report after each epoch, in a CSV file and for TensorBoard."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from mlayers.insight._events import EventFile
from mlayers.insight._optional import load
from mlayers.insight._probe import Probe, find
from mlayers.insight.api import BATCH_SIZE
from mlayers.insight.report import FeatureInsightReport
from mlayers.layers import _checks

COLUMNS = ("epoch", "field", "mean", "mean_abs", "share", "correlation")


class FeatureInsight(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Reports after each epoch of `fit` how much each field adds to a dense layer.

    Both files are whole after each epoch, whatever ends the training: nothing is kept open.

    Args:
        filename: the CSV file, with columns epoch, field, mean, mean_abs, share, correlation; the
            first epoch is 0. `None` writes none.
        inputs: what is reported on, as in `feature_insight_report`: some hundred or thousand
            examples as the model takes them, or the layer if `layer` is one. A function without
            arguments is called for them after each epoch, such as one that computes what a layer
            within a subclassed model receives.
        segment_names: the names of the fields.
        segment_sizes: how many columns each field has.
        label: (B,) numbers to correlate the contributions with.
        layer: which layer: one of the model by name, or a layer itself, to which `inputs` belong
            then; `None` is as in `feature_insight_report`.
        batch_size: how many rows are computed at once.
        log_dir: a folder for TensorBoard, best one that no other writer has, such as
            `logs/insight`; `None` writes nothing there. The tags are
            `feature_insight/share/<field>`, and so on for each column, the step is the epoch.
        append: whether to write below what is in the CSV file already; otherwise each `fit` begins
            it anew. For TensorBoard each `fit` begins a file beside the others.
        separator: between the columns.

    Attributes:
        reports: a `FeatureInsightReport` for each epoch of the last `fit`.

    Raises:
        ValueError: neither `filename` nor `log_dir` is given, or names and sizes do not match; when
            `fit` begins, also what `feature_insight_report` raises.
        ImportError: `log_dir` is given and the package tensorboard is not installed.

    Source: Monolith, `native_training/summary/summary_ops.py`.

    Example:
        >>> import tempfile, keras, numpy as np
        >>> from pathlib import Path
        >>> from mlayers.layers import MLP
        >>> model = keras.Sequential([keras.Input((3,)), MLP([4, 1])])
        >>> model.compile("sgd", "mse")
        >>> x, y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
        >>> path = Path(tempfile.mkdtemp()) / "insight.csv"
        >>> insight = FeatureInsight(path, x, ["user", "price"], [2, 1], label=y)
        >>> _ = model.fit(x, y, epochs=3, verbose=0, callbacks=[insight])
        >>> len(path.read_text().splitlines())  # a header, and two fields an epoch
        7
    """

    def __init__(
        self,
        filename: str | os.PathLike[str] | None,
        inputs: Any,
        segment_names: Sequence[str] | None = None,
        segment_sizes: Sequence[int] | None = None,
        *,
        label: Any = None,
        layer: Any = None,
        batch_size: int = BATCH_SIZE,
        log_dir: str | os.PathLike[str] | None = None,
        append: bool = False,
        separator: str = ",",
    ) -> None:
        super().__init__()
        if filename is None and log_dir is None:
            rule = "must be the name of a file, where 'log_dir' is not given"
            raise _checks.refuse("FeatureInsight", "filename", rule, filename)
        _checks.segments("FeatureInsight", segment_names, segment_sizes)
        if log_dir is not None:
            load("tensorboard.compat.proto.event_pb2", "FeatureInsight(log_dir=...)")
        self.filename = None if filename is None else Path(filename)
        self.log_dir = log_dir
        self.inputs, self.label, self.layer = inputs, label, layer
        self.segment_names, self.segment_sizes = segment_names, segment_sizes
        self.batch_size, self.append, self.separator = batch_size, append, separator
        self.reports: list[FeatureInsightReport] = []
        self._probe: Probe | None = None
        self._events: EventFile | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the layer, checks what was given, and begins the files."""
        self.reports = []
        self._probe = None
        if getattr(self._target()[0], "built", True):  # otherwise the first batch builds it
            self._probe = self._find()
            if not callable(self.inputs):
                self._probe.check(self.inputs, self.label, self.batch_size)
        if self.filename is not None:
            self._begin_csv(self.filename)
        if self.log_dir is not None:
            self._events = EventFile(self.log_dir, "FeatureInsight(log_dir=...)")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Makes the report and writes it."""
        if self._probe is None:
            self._probe = self._find()
        inputs = self.inputs() if callable(self.inputs) else self.inputs
        report = self._probe.report(inputs, self.label, self.batch_size)
        self.reports.append(report)
        if self.filename is not None:
            lines = [
                [epoch, row.name, *(getattr(row, column) for column in COLUMNS[2:])]
                for row in report.rows
            ]
            self._write_csv(self.filename, "a", lines)
        if self._events is not None:
            scalars = {
                f"feature_insight/{column}/{row.name}": value
                for column in COLUMNS[2:]
                for row in report.rows
                if (value := getattr(row, column)) is not None
            }
            self._events.write(epoch, scalars)

    def on_train_end(self, logs: Any = None) -> None:
        """Lets go of the layer and of the event file."""
        self._probe = self._events = None

    def _target(self) -> tuple[Any, str | None]:
        """The model or layer to look at, and the name of the model's layer."""
        named = self.layer is None or isinstance(self.layer, str)
        return (self.model, self.layer) if named else (self.layer, None)

    def _find(self) -> Probe:
        target, name = self._target()
        return find("FeatureInsight", target, self.segment_names, self.segment_sizes, name)

    def _begin_csv(self, path: Path) -> None:
        first = ""
        if self.append and path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                first = file.readline().rstrip("\r\n")
        if not first:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write_csv(path, "w", [COLUMNS])
        elif first != self.separator.join(COLUMNS):
            raise ValueError(
                f"FeatureInsight: 'filename' must be a file with the columns {[*COLUMNS]} to "
                f"append to it. Received: {str(path)!r}, which begins with {first!r}"
            )

    def _write_csv(self, path: Path, mode: str, lines: Sequence[Sequence[Any]]) -> None:
        """Writes the lines in one piece."""
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self.separator, lineterminator="\n").writerows(lines)
        with path.open(mode, encoding="utf-8", newline="") as file:
            file.write(text.getvalue())
