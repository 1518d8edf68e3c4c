# SPDX-License-Identifier: Apache-2.0
"""Contributions of segments, computed batch by batch and gathered into a report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mlayers.insight._locate import Place, effective_kernel, in_layer, in_model
from mlayers.insight._moments import Moments
from mlayers.insight.report import FeatureInsightReport, FieldInsight
from mlayers.layers import _checks
from mlayers.ops.feature_insight import feature_insight


@dataclass(frozen=True)
class Probe:
    """A dense layer whose input falls into named segments; it can be asked again as it trains.

    Args:
        owner: who asks, for the errors.
        place: the dense layer, and what comes before it.
        names: of the segments.
        sizes: their widths.
    """

    owner: str
    place: Place
    names: list[str]
    sizes: list[int]

    def check(self, inputs: Any, label: Any, batch_size: Any) -> tuple[Any, Any, int]:
        """Returns the inputs as arrays or tensors, the label as (B,) float64 or `None`, and B.

        Raises:
            ValueError: they have a wrong shape, no rows, or the label is not finite.
        """
        _checks.dim(self.owner, "batch_size", batch_size)
        if self.place.to_input is None:
            inputs = _array(inputs)
            if len(inputs.shape) != 2 or inputs.shape[1] != self.place.width:
                raise ValueError(
                    f"{self.owner}: 'inputs' must be what {self.place.layer.name!r} receives, "
                    f"(batch, {self.place.width}). Received: inputs.shape={tuple(inputs.shape)}"
                )
        else:
            inputs = keras.tree.map_structure(_array, inputs)
        shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(inputs)]
        count = shapes[0][0] if shapes and shapes[0] else 0
        if count == 0 or any(not shape or shape[0] != count for shape in shapes):
            raise ValueError(
                f"{self.owner}: 'inputs' must be arrays with the same number of rows, at least "
                f"one. Received: shapes {shapes}"
            )
        return inputs, None if label is None else self._label(label, count), int(count)

    def report(self, inputs: Any, label: Any, batch_size: int) -> FeatureInsightReport:
        """Returns the report on these inputs; see `check` for what it raises."""
        inputs, label_b, count = self.check(inputs, label, batch_size)
        label_of = np.zeros(count) if label_b is None else label_b
        kernel_nk = effective_kernel(self.place.dense)
        several = kernel_nk.shape[1] > 1
        sizes, moments, along = self.sizes, Moments(len(self.sizes)), Moments(len(self.sizes))
        with np.errstate(invalid="ignore", over="ignore"):  # a training that diverged has NaN
            towards_n1 = None
            if several and label_b is not None:
                towards_n1 = self._towards_label(inputs, label_b, batch_size, kernel_nk)
            for rows, inputs_bn in self._batches(inputs, count, batch_size, kernel_nk.dtype):
                added_bs = feature_insight(inputs_bn, kernel_nk, sizes, aggregate=several)
                moments.add(np.sqrt(added_bs) if several else added_bs, label_of[rows])
                if towards_n1 is not None:
                    along.add(feature_insight(inputs_bn, towards_n1, sizes), label_of[rows])
            total = float(moments.mean_abs_s.sum())
            share_s = moments.mean_abs_s / total if total != 0 else moments.mean_abs_s
            correlated = along if several else moments
            correlation_s = [None] * len(sizes) if label_b is None else correlated.correlation_s()
        columns = (self.names, self.sizes, moments.mean_s, moments.mean_abs_s, share_s)
        fields = [
            FieldInsight(
                name=name,
                size=size,
                mean=float(mean),
                mean_abs=float(mean_abs),
                share=float(share),
                correlation=None if correlation is None else float(correlation),
            )
            for name, size, mean, mean_abs, share, correlation in zip(
                *columns, correlation_s, strict=True
            )
        ]
        return FeatureInsightReport(fields, self.place.layer.name, kernel_nk.shape[1], count)

    def _batches(
        self, inputs: Any, count: int, batch_size: int, dtype: Any
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """The rows of each batch, and what the dense layer receives for them."""
        to_input, norm = self.place.to_input, self.place.norm
        for first in range(0, count, batch_size):
            rows = slice(first, min(first + batch_size, count))
            batch = keras.tree.map_structure(lambda leaf, rows=rows: leaf[rows], inputs)
            inputs_bn = batch if to_input is None else to_input.predict_on_batch(batch)
            if norm is not None:
                as_tensor = keras.ops.convert_to_tensor(inputs_bn, norm.compute_dtype)
                inputs_bn = norm(as_tensor, training=False)
            yield rows, np.asarray(_to_numpy(inputs_bn), dtype)

    def _towards_label(
        self, inputs: Any, label_b: np.ndarray, batch_size: int, kernel_nk: np.ndarray
    ) -> np.ndarray:
        """(N, 1): the kernel along the direction in which the outputs move with the label."""
        moments = Moments(len(kernel_nk))
        for rows, inputs_bn in self._batches(inputs, len(label_b), batch_size, kernel_nk.dtype):
            moments.add(inputs_bn, label_b[rows])
        direction_k = moments.covariance_s() @ kernel_nk
        largest = np.abs(direction_k).max()
        if largest > 0:
            direction_k /= largest
        return np.asarray(kernel_nk @ direction_k[:, None], kernel_nk.dtype)

    def _label(self, label: Any, count: int) -> np.ndarray:
        array = np.asarray(_to_numpy(label))
        if array.shape not in ((count,), (count, 1)):
            raise ValueError(
                f"{self.owner}: 'label' must have one number for each of the {count} rows of "
                f"'inputs'. Received: label.shape={array.shape}"
            )
        try:
            label_b = np.asarray(array.reshape(count), np.float64)
        except (TypeError, ValueError) as error:
            rule = "must be numbers"
            raise _checks.refuse(self.owner, "label", rule, array.dtype) from error
        if not np.isfinite(label_b).all():
            row = int(np.argmin(np.isfinite(label_b)))
            raise ValueError(
                f"{self.owner}: 'label' must be finite. Received: {label_b[row]} in row {row}"
            )
        return label_b


def find(
    owner: str, dense_or_model: Any, segment_names: Any, segment_sizes: Any, layer: str | None
) -> Probe:
    """Returns the probe of a layer or a model; the arguments are `feature_insight_report`'s."""
    names, sizes = _checks.segments(owner, segment_names, segment_sizes)
    if isinstance(dense_or_model, keras.Model):
        width = None if sizes is None else sum(sizes)
        place = in_model(owner, dense_or_model, width, layer)
    else:
        place = in_layer(owner, dense_or_model)
        if layer is not None:
            rule = "is for a keras.Model, in which it names a layer"
            raise _checks.refuse(owner, "layer", rule, layer)
    if sizes is None:
        names = getattr(place.layer, "segment_names", None)
        sizes = getattr(place.layer, "segment_sizes", None)
    if names is None or sizes is None:
        raise ValueError(
            f"{owner}: 'segment_names' and 'segment_sizes' must be given, here or to the "
            f"constructor of the MLP. Received: {type(place.layer).__name__} "
            f"{place.layer.name!r} and None"
        )
    if sum(sizes) != place.width:
        rule = (
            f"must add up to the width of the input of {place.layer.name!r}, {place.width}; they "
            f"add up to {sum(sizes)}"
        )
        raise _checks.refuse(owner, "segment_sizes", rule, list(sizes))
    return Probe(owner, place, list(names), list(sizes))


def _array(leaf: Any) -> Any:
    return leaf if keras.ops.is_tensor(leaf) else np.asarray(leaf)


def _to_numpy(value: Any) -> Any:
    return keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value
