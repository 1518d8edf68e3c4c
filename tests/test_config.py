# SPDX-License-Identifier: Apache-2.0
"""Choosing a path, reporting the configuration, and processes that fork."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import mlayers
from mlayers.config import chosen_path

ONES = np.ones((2, 2), "float32")


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


def test_source_code_that_is_not_installed_says_so():
    """As where Python is started in a checkout beside which mlayers is installed."""
    checkout = Path(__file__).parents[1]
    done = run(
        "import sys\n"
        "sys.meta_path = [f for f in sys.meta_path if '_EditableFinder' not in repr(f)]\n"
        f"sys.path.insert(0, {str(checkout)!r})\n"
        "import mlayers"
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"ImportError: mlayers was imported from its source code ({checkout}")
    assert "python -P" in last


def test_use_kernels_nests_and_ends():
    before = chosen_path()
    with mlayers.use_kernels("reference"):
        with mlayers.use_kernels("composition"):
            assert chosen_path() == "composition"
        assert chosen_path() == "reference"
    assert chosen_path() == before


def test_use_kernels_ends_after_an_error():
    before = chosen_path()
    with pytest.raises(KeyError), mlayers.use_kernels("reference"):
        raise KeyError
    assert chosen_path() == before


def test_use_kernels_stays_in_its_thread():
    seen = []
    with mlayers.use_kernels("reference"):
        thread = threading.Thread(target=lambda: seen.append(chosen_path()))
        thread.start()
        thread.join()
    assert seen == [os.environ.get("MLAYERS_KERNELS", "auto")]


def test_unknown_path_is_refused():
    with (
        pytest.raises(ValueError, match=r"'path' must be one of auto, .* Received: 'gpu'"),
        mlayers.use_kernels("gpu"),
    ):
        pass


def test_forced_path_that_cannot_serve():
    with (
        mlayers.use_kernels("cupy"),
        pytest.raises(RuntimeError, match="'cupy' is forced, but numpy arrays can take only"),
    ):
        mlayers.ffm(ONES, ONES, 1)


def test_environment_variable():
    program = "import mlayers; print(mlayers.show_config(mode='dict')['path'])"
    assert run(program, MLAYERS_KERNELS="reference").stdout.strip() == "reference"
    failed = run(program, MLAYERS_KERNELS="fast")
    assert failed.returncode == 1
    assert "MLAYERS_KERNELS must be one of auto" in failed.stderr


def test_show_config_tells_what_is_on_and_why_not(capsys):
    config = mlayers.show_config(mode="dict")
    assert config["versions"]["numpy"] == np.__version__
    assert config["cpu kernels"]["state"] == "on"
    assert config["cpu kernels"]["threads"] >= 1
    assert set(config["bridges"]) == {"jax", "tensorflow", "torch"}
    assert mlayers.show_config() is None
    printed = capsys.readouterr().out
    assert "cpu kernels threads" in printed
    assert f"versions numpy               {np.__version__}" in printed
    with pytest.raises(ValueError, match="'mode' must be 'print' or 'dict'"):
        mlayers.show_config(mode="json")


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'fmm'"):
        mlayers.fmm  # noqa: B018


def test_kernels_work_after_fork():
    """A threaded kernel in a forked child neither hangs nor errs, after one in the parent."""
    program = (
        "import os, numpy as np, mlayers\n"
        "x = np.ones((1024, 2048), 'float32')\n"
        "mlayers.lhuc_gate(x, x)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if abs(mlayers.lhuc_gate(x, x)[0, 0] - 1.4621172) < 1e-6 else 3)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork()")
    done = run(program)
    assert done.stdout.strip() == "0", done.stderr


def test_threads_at_once():
    """Calls from several threads do not disturb one another."""
    generator = np.random.default_rng(0)
    left = generator.standard_normal((40_000, 24)).astype("float32")
    right = generator.standard_normal((40_000, 80)).astype("float32")
    expected = mlayers.ffm(left, right, 4)
    found = [None] * 4

    def work(index):
        for _ in range(5):
            found[index] = mlayers.ffm(left, right, 4)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found:
        np.testing.assert_array_equal(result, expected)
