# SPDX-License-Identifier: Apache-2.0
"""``python -m mlayers bench`` runs and prints what it promises. No figure is asserted."""

import os
import re
import subprocess
import sys

import pytest

from mlayers import bench

BACKEND = os.environ.get("KERAS_BACKEND")


def run(*options, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-m", "mlayers", "bench", *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(BACKEND is None, reason="KERAS_BACKEND is not set")
def test_table_of_the_backend():
    done = run("--backend", BACKEND, "--seconds", "0.01", "--shape", "8,2,3,4")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        f"{BACKEND} {sys.modules[BACKEND].__version__ if BACKEND in sys.modules else ''}"
        in done.stdout
    )
    assert "bridge: kernels" in done.stdout
    assert re.search(r"bare kernel +\d+\.\d", done.stdout)
    rows = re.findall(
        r"^(multiply|dot) +\(8, 2, 3, 4\) +(forward\S*) .*\d\.\d\d$", done.stdout, re.M
    )
    assert rows == [(m, d) for m in ("multiply", "dot") for d in ("forward", "forward+backward")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--backend", "paddle"),
            "bench: --backend must name jax, tensorflow, torch. Received: paddle",
        ),
        (("--shape", "1,2,3"), "argument --shape: invalid _shape value: '1,2,3'"),
        (("--shape", "0,2,3,4"), "argument --shape: invalid _shape value: '0,2,3,4'"),
    ],
)
def test_wrong_options_are_told_in_a_sentence(options, words):
    done = run(*options)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_interleave_calls_all_and_answers_medians():
    calls = {"a": 0, "b": 0}

    def count(name):
        calls[name] += 1

    found = bench.interleave({n: (lambda n=n: count(n)) for n in calls}, seconds=0.01)
    assert set(found) == {"a", "b"}
    assert all(median > 0 for median in found.values())
    assert min(calls.values()) >= 7
