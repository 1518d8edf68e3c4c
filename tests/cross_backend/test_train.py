# SPDX-License-Identifier: Apache-2.0
"""A model that `python -m mlayers train` saved under one backend predicts the same under all."""

import importlib.util
import os

import numpy as np
import pytest

from support import programs

BACKENDS = ("jax", "tensorflow", "torch")


def mlayers(*arguments):
    # One thread: the steps are tiny, and torch's idle threads take the core from the others.
    programs.output("-m", "mlayers", *arguments, OMP_NUM_THREADS="1")


@pytest.mark.parametrize("writer", BACKENDS)
def test_saved_click_model_predicts_the_same_everywhere(writer, tmp_path):
    missing = [backend for backend in BACKENDS if importlib.util.find_spec(backend) is None]
    if missing:
        reason = f"needs all three frameworks; not installed: {', '.join(missing)}"
        (pytest.fail if os.environ.get("MLAYERS_REQUIRE_ALL") == "1" else pytest.skip)(reason)
    import pandas

    mlayers("train", "--rows", 3000, "--epochs", 1, "--backend", writer, "--out", tmp_path)
    data = tmp_path / "predictions.csv"  # the test rows with the predictions of this process
    for reader in BACKENDS:
        out = tmp_path / f"{reader}.csv"
        mlayers("predict", "--model", tmp_path, "--data", data, "--backend", reader, "--out", out)
        table = pandas.read_csv(out)
        assert table["prediction"].std() > 0
        np.testing.assert_allclose(table["prediction"], table["lhuc_prediction"], atol=1e-5)
