# SPDX-License-Identifier: Apache-2.0
"""The bridges are what is tested here, also where MLAYERS_KERNELS forces another path elsewhere."""

import pytest

import mlayers


@pytest.fixture(autouse=True)
def automatic(monkeypatch):
    monkeypatch.setenv("MLAYERS_KERNELS", "auto")  # for processes that a test starts
    with mlayers.use_kernels("auto"):
        yield
