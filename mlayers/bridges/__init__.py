# SPDX-License-Identifier: Apache-2.0
"""How a framework's tensor reaches an op inside the framework's own graph. See README.md here."""

from collections.abc import Callable
from typing import Any

# By framework: computes an op for a call like one that it has served before, or returns None. From
# torch alone, which runs calls one by one: see torch_eager.py.
RECALL: dict[str, Callable[..., Any]] = {}
