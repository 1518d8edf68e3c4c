# SPDX-License-Identifier: Apache-2.0
"""``python -m mlayers bench`` runs and prints what it promises. No figure is asserted."""

import importlib.util
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from mlayers.bench import cases, frameworks, machine, programs, rows
from mlayers.bench.timing import BURST, TRIES, interleave

BACKEND = os.environ.get("KERAS_BACKEND")
XLA = "jit_compile"  # TensorFlow's compiler, as the bench names it
QUICK = ("--seconds", "0.01", "--shape", "8,2,3,4")


def run(*options, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-m", "mlayers", "bench", *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(BACKEND is None, reason="KERAS_BACKEND is not set")
def test_backend_beside_numpy(tmp_path):
    path = tmp_path / "bench.json"
    options = ("--backend", f"numpy,{BACKEND}", "--op", "multiply,dot", "--json", str(path))
    done = run(*options, *QUICK)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "bridge: kernels" in done.stdout
    found = json.loads(path.read_text())
    assert found["command"].startswith("python -m mlayers bench --backend numpy,")
    assert found["machine"]["cores"] == os.cpu_count()
    assert {"fill", "fill past caches", "fill fresh", "copy", "read"} == set(found["gb_per_s"])
    described = [(r["framework"], r["op"], r["direction"]) for r in found["rows"]]
    assert described == [
        (framework, op, direction)
        for framework, second in (("numpy", "gradient"), (BACKEND, "forward+backward"))
        for op in ("multiply", "dot")
        for direction in ("forward", second)
    ]
    assert found["overhead_us"][BACKEND]["bare kernel"] > 0
    for row in found["rows"]:
        assert f"{row['op']} (8,2,3,4) float32 {row['direction']}" in done.stdout
        medians = {column: timing["median"] for column, timing in row["us"].items()}
        ours = min(t for c, t in medians.items() if c.startswith("ours"))
        others = [t for c, t in medians.items() if c.startswith(("composed", "numpy"))]
        assert row["ratio"]["best"] == pytest.approx(min(others) / ours)
        assert all(t["p10"] <= t["median"] <= t["p90"] for t in row["us"].values())
        differentiates = row["framework"] == "torch" and row["direction"] != "forward"
        assert ("least of autograd" in medians) is differentiates


def test_numbers_of_a_case():
    case = cases.multiply(2, 3, 5, 7)
    left, right, out = 2 * 3 * 7, 2 * 5 * 7, 2 * 3 * 5 * 7
    assert case.bytes_moved("forward", 4) == 4 * (left + right + out)
    assert case.bytes_moved("gradient", 4) == 4 * (out + 2 * left + 2 * right)
    assert case.operations("forward+backward") == out + 4 * out


@pytest.mark.parametrize("name", cases.OPS)
@pytest.mark.parametrize("direction", ["forward", "gradient"])
def test_every_op_beside_numpy(name, direction):
    make, shapes = cases.OPS[name]
    small = make(*(min(size, 8) for size in shapes[0]))
    row = rows.numpy_row(small, "float32", direction, seconds=0.001)
    assert row["bytes"] > 0
    assert row["us"]["ours"]["median"] > 0


@pytest.mark.skipif(BACKEND != "tensorflow", reason="it is of XLA inside TensorFlow")
def test_one_program_is_timed_once():
    framework = frameworks.TensorFlow()
    x, y = (framework.tensor(np.full((64, 4), number), "float32") for number in (2.0, 3.0))

    def compiled(function, compiler=XLA):
        compiled = framework.compile(function, compiler)
        compiled(x, y)
        return compiled

    one = compiled(lambda x, y: x * y + x)
    assert framework.same_program(
        XLA, one, compiled(lambda first, second: first * second + first), [x, y]
    )
    assert not framework.same_program(XLA, one, compiled(lambda x, y: x * y - x), [x, y])
    assert not framework.same_program(XLA, one, compiled(lambda x, y: y * x + y), [x, y])
    graphs = [compiled(lambda x, y: x * y, "tf.function") for _ in range(2)]
    assert not framework.same_program("tf.function", *graphs, [x, y])

    row = rows.framework_row(
        framework, "tensorflow", cases.dot(8, 2, 3, 4), "float32", "forward", 0.01
    )
    assert row["same_program"] == {"composed jit_compile": "ours jit_compile"}
    assert row["us"]["composed jit_compile"] == row["us"]["ours jit_compile"]
    assert row["us"]["composed tf.function"] != row["us"]["ours tf.function"]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="it is of XLA inside TensorFlow")
@pytest.mark.parametrize("name", cases.OPS)
def test_every_op_has_programs_to_compare(name):
    make, shapes = cases.OPS[name]
    small = make(*(min(size, 8) for size in shapes[0]))
    framework = frameworks.TensorFlow()
    row = rows.framework_row(framework, "tensorflow", small, "float32", "forward", 0.001)
    assert set(row["same_program"]) <= {"composed jit_compile"}
    assert {"ours jit_compile", "composed jit_compile"} <= set(row["us"])


def test_names_of_an_xla_program_do_not_count():
    one = 'HloModule a_1\n%x.1 = f32[2] add(%p.0, %p.0), metadata={op_name="a"}\nROOT %x.1'
    assert programs.nameless(one) == programs.nameless(
        "HloModule b_2\n%y.7 = f32[2] add(%arg, %arg)\nROOT %y.7"
    )
    for other in ("f32[3] add(%p.0, %p.0)", "f32[2] add(%p.0, %q.0)", "f32[2] sub(%p.0, %p.0)"):
        assert programs.nameless(one) != programs.nameless(f"HloModule\n%x.1 = {other}\nROOT %x.1")


def test_different_results_are_not_compared():
    wrong = cases.multiply(2, 3, 5, 7)
    wrong = type(wrong)(**{**vars(wrong), "numpy": lambda left, right: np.zeros((2, 105))})
    with pytest.raises(RuntimeError, match="'numpy' and 'ours' differ"):
        rows.numpy_row(wrong, "float32", "forward", seconds=0.001)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--backend", "paddle"), "--backend must name numpy, jax, tensorflow, torch. Received: p"),
        (("--op", "dot,conv"), "bench: --op must name multiply, dot, insight, aggregate, gate, no"),
        (("--dtype", "int8"), "bench: --dtype must name float16, bfloat16, float32, float64. Rece"),
        (("--direction", "up"), "bench: --direction must name forward, forward+backward. Received"),
        (("--shape", "1,2,3"), "argument --shape: invalid _shape value: '1,2,3'"),
        (("--shape", "0,2,3,4"), "argument --shape: invalid _shape value: '0,2,3,4'"),
    ],
)
def test_wrong_options_are_told_in_a_sentence(options, words):
    done = run(*options)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_file_that_cannot_be_written(tmp_path):
    path = tmp_path / "no" / "folder.json"
    done = run("--backend", "numpy", "--op", "dot", "--json", str(path), *QUICK)
    assert done.returncode == 2
    assert f"bench: cannot write {path}: No such file or directory" in done.stderr


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    from mlayers.bench import pictures

    case = cases.dot(4, 2, 3, 4)
    row = rows.numpy_row(case, "float32", "forward", seconds=0.001)
    growth = [{**row, "varied": "dot, D", "size": size} for size in (1, 2)]
    pictures.draw_roofline([row], bandwidth=20.0, peak=100.0, path=tmp_path / "roof.png")
    pictures.draw_growth(growth, tmp_path / "growth.png")
    for name in ("roof.png", "growth.png"):
        picture = (tmp_path / name).read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 5000


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is not None, reason="matplotlib is installed"
)
def test_pictures_need_matplotlib():
    done = run("--picture", "roof.png")
    assert done.returncode == 2
    assert "bench: --picture needs matplotlib: pip install 'mlayers[train]'" in done.stderr


def test_interleave_calls_all_and_answers_timings():
    calls = {"a": 0, "b": 0}

    def count(name):
        calls[name] += 1

    found = interleave({n: (lambda n=n: count(n)) for n in calls}, seconds=0.01)
    assert set(found) == {"a", "b"}
    assert all(0 < timing.p10 <= timing.median <= timing.p90 for timing in found.values())
    assert min(calls.values()) >= 7


def test_interleave_finishes_once_before_the_clock_starts_and_stops():
    told = []

    def queue():
        told.append("call")
        return len(told)

    def finish(result):
        assert result == len(told)  # of the last call
        told.append("finish")

    interleave({"a": queue}, seconds=0.0, warm_up=2, finish=finish)
    words = "".join(word[0] for word in told)
    assert words.startswith("ccfcfcf")
    groups = words.removeprefix("ccf").split("f")[:-1]
    tries, bursts = groups[: -2 * 7], groups[-2 * 7 :]
    assert 1 <= len(tries) <= TRIES  # fewer where one was disturbed for long
    assert set(tries) == {"c"}
    assert set(bursts[::2]) == {"c"}
    assert len(set(bursts[1::2])) == 1 < len(bursts[1])


def test_bursts_are_as_long_where_the_first_call_takes_longer():
    """As one that waits for fresh memory: the others are not timed by shorter bursts for it."""
    called = 0

    def call():
        nonlocal called
        called += 1
        time.sleep(BURST / 3 if called == 4 else BURST / 20)  # the first after the warm-up

    interleave({"a": call}, seconds=0.0, warm_up=3)
    assert called > 3 + TRIES + 7 * (1 + 6)  # in 7 bursts, and before each of them once


def test_peak_memory_of_a_call():
    def call():
        return np.ones(8 << 20).sum()

    peak = machine.peak_memory(call)
    if peak is None:
        pytest.skip("this system does not tell")
    assert peak > 60 << 20
