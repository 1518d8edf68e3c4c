# SPDX-License-Identifier: Apache-2.0
"""`feature_insight_report`: the report as a function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlayers.insight._probe import find
from mlayers.insight.report import FeatureInsightReport

BATCH_SIZE = 4096


def feature_insight_report(
    dense_or_model: Any,
    inputs: Any,
    segment_names: Sequence[str] | None = None,
    segment_sizes: Sequence[int] | None = None,
    *,
    label: Any = None,
    batch_size: int = BATCH_SIZE,
    layer: str | None = None,
) -> FeatureInsightReport:
    """How much each field of a dense layer's input adds to the layer's outputs.

    The input is seen as fields side by side, and the product with the kernel is kept apart per
    field. With one unit the contribution of a field is what it adds to the output: a number with a
    sign. With several it is the length of what it adds to them, `sqrt(Σ_k added_k²)`, which has no
    sign: `mean` and `mean_abs` are equal then. Together with the bias, what the fields add is the
    output before its activation; the bias itself belongs to no field.

    A length says little about a label. So with several units the correlation is that of what the
    field adds in the one direction in which the outputs together move with the label,
    `Σ_k added_k · covariance(output_k, label)`.

    A weight-normed kernel counts as it is in use, and with a batch norm in front its outputs count,
    with the moving statistics. A field whose contribution is large and always the same has a large
    share although it tells examples apart no better than a bias; its correlation is small.

    Args:
        dense_or_model: a built `Dense`, `MLP` or `LHUCTower` of `mlayers.layers` or a
            `keras.layers.Dense`; of a stack, its first dense layer is looked at. Or a
            functional or built sequential `keras.Model`: then its first such layer whose input is
            as wide as the fields together, outside of models within it.
        inputs: for a layer, (B, N), what the layer receives; of a tower, its dense input. For a
            model, what the model takes: arrays or tensors in its structure, each of B rows.
        segment_names: the names of the fields, in the order of the columns. Together with
            `segment_sizes` it may be left out if the layer is an `MLP` that was made with them.
        segment_sizes: how many columns each field has.
        label: (B,) or (B, 1) numbers to correlate the contributions with.
        batch_size: how many rows are computed at once.
        layer: of a model, the name of the layer to look at.

    Returns:
        A `FeatureInsightReport`. Shares add up to 1; they are all 0 where nothing is added at all.

    Raises:
        ValueError: names and sizes do not match each other or the layer, the model has no fitting
            layer or several, a layer is not built, `inputs` or `label` has a wrong shape.
        TypeError: `dense_or_model` is none of these.

    Source: Monolith, `native_training/layers/mlp.py` and `layer_ops.feature_insight`.

    Example:
        >>> import numpy as np
        >>> from mlayers.layers import Dense
        >>> dense = Dense(1, kernel_initializer="ones", name="dense")
        >>> x = np.array([[1, 1, -4], [2, 0, 4]], "float32")
        >>> dense.build(x.shape)
        >>> print(feature_insight_report(dense, x, ["user", "price"], [2, 1], label=[0, 1]))
        Feature insight of 'dense': 2 examples, 1 unit
        field  size  mean  mean_abs   share  correlation
        price     1     0         4  66.7 %        1.000
        user      2     2         2  33.3 %          nan
    """
    owner = "feature_insight_report"
    probe = find(owner, dense_or_model, segment_names, segment_sizes, layer)
    return probe.report(inputs, label, batch_size)
