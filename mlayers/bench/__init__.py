# SPDX-License-Identifier: Apache-2.0
"""``python -m mlayers bench``: the kernels beside the composition, framework by framework."""

from mlayers.bench.table import add_parser, interleave

__all__ = ["add_parser", "interleave"]
