# SPDX-License-Identifier: Apache-2.0
"""Means and correlations of columns that come batch by batch.

Axes: b row of a batch, s segment.
"""

from __future__ import annotations

import numpy as np

_ROUNDING = 2.0**-20  # a column that varies by no more of its size than this is constant in float32


class Moments:
    """Sums over all rows seen, in float64, around the means, as Chan, Golub and LeVeque have them.

    Args:
        n_segments: how many columns there are.

    Source: https://doi.org/10.1080/00031305.1983.10483115
    """

    def __init__(self, n_segments: int) -> None:
        self.count = 0
        self.mean_s = np.zeros(n_segments)
        self.mean_abs_s = np.zeros(n_segments)
        self._squares_s = np.zeros(n_segments)  # Σ (column - its mean)²
        self._products_s = np.zeros(n_segments)  # Σ (column - its mean) · (label - its mean)
        self._label_mean = 0.0
        self._label_squares = 0.0

    def add(self, values_bs: np.ndarray, label_b: np.ndarray) -> None:
        """Takes in the rows of a batch, at least one, and their labels."""
        values_bs, label_b = values_bs.astype(np.float64), label_b.astype(np.float64)
        count = len(values_bs)
        mean_s, label_mean = values_bs.mean(axis=0), float(label_b.mean())
        centred_bs, label_centred_b = values_bs - mean_s, label_b - label_mean
        step_s, label_step = mean_s - self.mean_s, label_mean - self._label_mean
        total = self.count + count
        between = self.count * count / total
        self._squares_s += (centred_bs**2).sum(axis=0) + between * step_s**2
        self._products_s += label_centred_b @ centred_bs + between * step_s * label_step
        self._label_squares += float((label_centred_b**2).sum()) + between * label_step**2
        self.mean_s += step_s * count / total
        self.mean_abs_s += (np.abs(values_bs).mean(axis=0) - self.mean_abs_s) * count / total
        self._label_mean += label_step * count / total
        self.count = total

    def covariance_s(self) -> np.ndarray:
        """The covariance of each column with the label."""
        return self._products_s / self.count

    def correlation_s(self) -> np.ndarray:
        """Pearson's correlation of each column with the label; NaN where either is constant."""
        size_s = np.sqrt(self._squares_s / self.count + self.mean_s**2)
        varies_s = np.sqrt(self._squares_s / self.count) > _ROUNDING * size_s
        label_size = np.sqrt(self._label_squares / self.count + self._label_mean**2)
        varies_s &= np.sqrt(self._label_squares / self.count) > _ROUNDING * label_size
        scale_s = np.sqrt(self._squares_s * self._label_squares)
        correlation_s = np.full(len(scale_s), np.nan)
        np.divide(self._products_s, scale_s, out=correlation_s, where=varies_s)
        return correlation_s.clip(-1.0, 1.0)
