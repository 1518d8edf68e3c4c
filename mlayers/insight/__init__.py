# SPDX-License-Identifier: Apache-2.0
"""Feature insight for people: which fields of a dense layer's input its output is made of.

A report for a trained layer or model, and a callback that writes one after each epoch. pandas,
matplotlib and tensorboard are optional: each is imported by the one method that needs it.
"""

from mlayers.insight.api import feature_insight_report
from mlayers.insight.callback import FeatureInsight
from mlayers.insight.report import FeatureInsightReport, FieldInsight

__all__ = ["FeatureInsight", "FeatureInsightReport", "FieldInsight", "feature_insight_report"]
