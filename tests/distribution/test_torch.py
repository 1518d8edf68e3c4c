# SPDX-License-Identifier: Apache-2.0
"""DistributedDataParallel in two processes trains as one process does, with the kernels."""

import json
import os

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND") != "torch":
    pytest.skip("KERAS_BACKEND is not torch", allow_module_level=True)

from support import programs
from support.train_steps import STEPS, largest_error

RUNS = [(0, 1), (0, 2), (1, 2)]  # rank, number of processes
RANKS = pytest.mark.parametrize("rank", [0, 1])


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each process wrote: its losses, the ops it ran, gradients and weights."""
    folder = tmp_path_factory.mktemp("torch")
    environment = {
        "MLAYERS_KERNELS": "auto",
        "OMP_NUM_THREADS": "1",  # idle threads would take the other process's core
    }
    processes = [
        programs.start("-m", "support.torch_training", rank, size, folder, **environment)
        for rank, size in RUNS
    ]
    try:
        for process in processes:
            programs.finish(process, timeout=300)
    finally:
        for process in processes:  # one that waits for a partner which has failed
            process.kill()
    found = {}
    for rank, size in RUNS:
        path = folder / f"{rank}-of-{size}"
        with np.load(path.with_suffix(".npz")) as saved:
            arrays = dict(saved)
        found[rank, size] = {**json.loads(path.with_suffix(".json").read_text()), "arrays": arrays}
    return found


@RANKS
def test_averaged_gradients_and_weights_are_those_of_one_process(seen, rank):
    one = seen[0, 1]["arrays"]
    assert largest_error(seen[rank, 2]["arrays"], one) < 1e-4
    gradients = {name: value for name, value in one.items() if name.startswith("gradient of ")}
    assert len(gradients) == len(one) // 2
    assert all(np.abs(value).max() > 0 for value in gradients.values())


def test_losses_are_halves_of_that_of_one_process(seen):
    first, second, whole = (np.array(seen[run]["losses"]) for run in [(0, 2), (1, 2), (0, 1)])
    np.testing.assert_allclose((first + second) / 2, whole, rtol=1e-5)
    assert not np.allclose(first, second, rtol=1e-2)
    assert len(set(whole)) == STEPS


@RANKS
def test_kernels_run(seen, rank):
    """Two products, three gates and nine kernels in each step, and their gradients."""
    forward = {"ffm": 2, "lhuc_gate": 3, "weight_norm": 9}
    expected = {**forward, **{f"{op}_grad": n for op, n in forward.items()}}
    assert seen[rank, 2]["ops"] == {f"mlayers::{op}": n * STEPS for op, n in expected.items()}
