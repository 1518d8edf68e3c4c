# SPDX-License-Identifier: Apache-2.0
"""All three bridges at once, from many threads: right, and no memory lost.

MLAYERS_STRESS_SECONDS says how long, for each active backend; 15 unless it is set.
"""

import importlib.util
import os

import pytest

from support import programs

FRAMEWORKS = ("jax", "tensorflow", "torch")
SECONDS = os.environ.get("MLAYERS_STRESS_SECONDS", "15")


@pytest.mark.parametrize("active", FRAMEWORKS)
def test_random_ops_from_eight_threads(active):
    missing = [name for name in FRAMEWORKS if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"needs {', '.join(missing)}"
        (pytest.fail if os.environ.get("MLAYERS_REQUIRE_ALL") == "1" else pytest.skip)(reason)
    seen = programs.result("-m", "support.stress", SECONDS, KERAS_BACKEND=active)
    print(active, seen)
    assert seen["unavailable"] == []
    assert seen["wrong"] == {}
    assert seen["kinds"] == seen["all kinds"], "too short to call everything"
    before, after = seen["megabytes"]
    assert after < before + 50
