# SPDX-License-Identifier: Apache-2.0
"""A `.keras` file written with one backend predicts the same with the other two.

Every layer with rich options, in a functional and in a subclassed model, and a functional model
of bare operations. Needs all three frameworks: without them the tests skip and say so, unless
MLAYERS_REQUIRE_ALL=1 turns that into a failure. Three processes write, three read.
"""

import importlib.util
import itertools
import os

import pytest

from support import programs

BACKENDS = ("jax", "tensorflow", "torch")
MODELS = {
    "ops-functional",
    *(
        f"{layer}-{kind}"
        for layer in ("dense", "mlp", "lhuc_tower", "fid_counter", "group_int", "group_int_dot")
        for kind in ("functional", "subclassed")
    ),
}


@pytest.fixture(scope="module", autouse=True)
def all_frameworks():
    missing = [backend for backend in BACKENDS if importlib.util.find_spec(backend) is None]
    if not missing:
        return
    reason = f"needs all three frameworks; not installed: {', '.join(missing)}"
    if os.environ.get("MLAYERS_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def folders(all_frameworks, tmp_path_factory):
    """One folder of models per backend that wrote it."""
    written = {backend: tmp_path_factory.mktemp(backend) for backend in BACKENDS}
    for backend, folder in written.items():
        programs.output("-m", "support.cross_backend", "write", folder, KERAS_BACKEND=backend)
    return written


@pytest.fixture(scope="module")
def errors(folders):
    """errors[reader][writer][model]: largest error of the predictions, relative."""
    found = {}
    for reader in BACKENDS:
        others = [folders[writer] for writer in BACKENDS if writer != reader]
        command = ("-m", "support.cross_backend", "read", *others)
        found[reader] = programs.result(*command, KERAS_BACKEND=reader)
    return found


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
