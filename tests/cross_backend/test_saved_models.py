# SPDX-License-Identifier: Apache-2.0
"""A `.keras` file written with one backend predicts the same with the other two.

Every layer with rich options, in a functional and in a subclassed model, and a functional model
of bare operations. Needs all three frameworks: without them the tests skip and say so, unless
MLAYERS_REQUIRE_ALL=1 turns that into a failure. Three processes write, three read.
"""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BACKENDS = ("jax", "tensorflow", "torch")
MODELS = {
    "ops-functional",
    *(
        f"{layer}-{kind}"
        for layer in ("dense", "mlp", "lhuc_tower", "fid_counter", "group_int", "group_int_dot")
        for kind in ("functional", "subclassed")
    ),
}
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def all_frameworks():
    missing = [backend for backend in BACKENDS if importlib.util.find_spec(backend) is None]
    if not missing:
        return
    reason = f"needs all three frameworks; not installed: {', '.join(missing)}"
    if os.environ.get("MLAYERS_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def run(backend, *arguments):
    """`support.cross_backend` in a new process with this backend; its standard output."""
    process = subprocess.run(
        [sys.executable, "-m", "support.cross_backend", *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, f"{backend} {arguments}:\n{process.stderr}"
    return process.stdout


@pytest.fixture(scope="module")
def folders(all_frameworks, tmp_path_factory):
    """One folder of models per backend that wrote it."""
    written = {backend: tmp_path_factory.mktemp(backend) for backend in BACKENDS}
    for backend, folder in written.items():
        run(backend, "write", folder)
    return written


@pytest.fixture(scope="module")
def errors(folders):
    """errors[reader][writer][model]: largest error of the predictions, relative."""
    return {
        reader: json.loads(
            run(reader, "read", *(folders[w] for w in BACKENDS if w != reader)).splitlines()[-1]
        )
        for reader in BACKENDS
    }


@pytest.mark.parametrize("model", sorted(MODELS))
@pytest.mark.parametrize(("writer", "reader"), list(itertools.permutations(BACKENDS, 2)))
def test_predictions_are_the_same(errors, folders, writer, reader, model):
    error = errors[reader][str(folders[writer])][model]
    assert isinstance(error, float), error
    assert error < 1e-5


def test_every_model_was_written_and_read(errors, folders):
    for folder in folders.values():
        assert {path.stem for path in folder.glob("*.keras")} == MODELS
    for by_folder in errors.values():
        assert len(by_folder) == 2
        assert all(found.keys() == MODELS for found in by_folder.values())
