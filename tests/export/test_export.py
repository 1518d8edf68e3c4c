# SPDX-License-Identifier: Apache-2.0
"""A model of every layer and op is exported, and served where there is neither mlayers nor Keras.

One process exports, for an unknown batch size; another, in which neither can be imported, loads the
artefact with TensorFlow, ONNX Runtime or torch alone and predicts for three batch sizes. A case
needs its framework and its converter; without them it skips and says so, unless
MLAYERS_REQUIRE_ALL=1 turns that into a failure.
"""

import importlib.util
import os

import numpy as np
import pytest

from support import programs

# (backend, how): what it needs besides the backend
CASES = {
    ("tensorflow", "tf_saved_model"): (),
    ("tensorflow", "onnx"): ("onnxruntime", "tf2onnx"),
    ("jax", "tf_saved_model"): ("tensorflow",),
    ("jax", "onnx"): ("onnxruntime", "jax2onnx"),
    ("torch", "torch"): (),
    ("torch", "onnx"): ("onnxruntime", "onnx"),
    ("torch", "torch.onnx"): ("onnxruntime", "onnxscript"),
}


def need(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"needs {', '.join(missing)}"
        (pytest.fail if os.environ.get("MLAYERS_REQUIRE_ALL") == "1" else pytest.skip)(reason)


@pytest.mark.parametrize(("backend", "how"), CASES)
def test_served_alone(backend, how, tmp_path):
    need(backend, *CASES[backend, how])
    programs.output("-m", "support.every_layer", how, tmp_path, KERAS_BACKEND=backend)
    server = programs.TESTS / "support" / "serve_alone.py"
    errors = programs.result(server, tmp_path, KERAS_BACKEND="")
    assert errors.keys() == {"1", "3", "7"}
    assert max(errors.values()) < 1e-5
    # The comparison must be able to fail: rows are predicted differently.
    with np.load(tmp_path / "7.npz") as saved:
        assert np.ptp(saved["expected"], axis=0).min() > 0.01
