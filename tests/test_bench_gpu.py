# SPDX-License-Identifier: Apache-2.0
"""``bench --gpu`` without one: CuPy is emulated, and JAX and torch take the CPU for their GPU."""

import importlib
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from mlayers.kernels_cu import driver

from mlayers.__main__ import main
from mlayers.bench import cases, cli, frameworks, gpu
from mlayers.train.errors import CommandError
from support.libraries import library

BACKEND = os.environ.get("KERAS_BACKEND")
TINY = {
    "multiply": ((4, 2, 3, 4),),
    "dot": ((4, 2, 3, 4),),
    "insight": ((4, 2, 3, 4),),
    "aggregate": ((4, 2, 3, 4),),
    "gate": ((4, 8),),
    "norm": ((4, 8),),
    "counter": ((64,),),
}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(cases, "GPU_SHAPES", TINY)
    for name, value in {"BUFFER": 1000, "SIDE": 8, "BLOCK": 7, "PIECE": 16}.items():
        monkeypatch.setattr(gpu, name, value)


@pytest.fixture
def emulated(tiny):
    with library("emulated"):
        yield


@pytest.fixture
def backend(tiny, monkeypatch):
    """A framework that takes the CPU for its GPU."""
    if BACKEND not in ("jax", "torch"):
        pytest.skip("KERAS_BACKEND is neither jax nor torch")
    made = gpu.Backend(BACKEND)
    made.framework = frameworks.FRAMEWORKS[BACKEND]()
    monkeypatch.setattr(made.framework, "peak_memory", lambda call: None)
    yield made
    if BACKEND == "jax":
        importlib.import_module("jax").config.update("jax_default_matmul_precision", None)


def check_row(row):
    medians = {column: timing["median"] for column, timing in row["us"].items()}
    ours = min(t for c, t in medians.items() if c.startswith("ours"))
    others = [t for c, t in medians.items() if not c.startswith("ours")]
    assert set(row["ratio"]) == {"eager", "compiled", "best", "copy", "floor"}
    assert row["ratio"]["best"] == pytest.approx(min(others) / ours)
    assert row["ratio"]["floor"] >= row["ratio"]["copy"]
    assert all(0 < r < math.inf for r in row["ratio"].values() if r is not None)
    assert row["left_out"] == {}
    assert row["gb_per_s"] == pytest.approx(row["bytes"] / ours / 1e3)


@pytest.mark.skipif(driver.why_not() is None, reason="there is a GPU")
def test_gpu_that_is_not_there():
    command = [sys.executable, "-P", "-m", "mlayers", "bench", "--gpu", "--op", "dot"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"mlayers: bench: --gpu: {driver.why_not()}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("direction", cli.DIRECTIONS)
def test_row_of_cupy(emulated, name, direction):
    cupy = gpu.Backend("cupy")
    cupy.limits(seconds=0.001)
    (case,) = cases.chosen([name], None, on_gpu=True)
    row = cupy.row(case, "float32", direction, seconds=0.001)
    check_row(row)
    own = cases.OPS[name][0](*case.sizes).numpy_grad if direction != "forward" else True
    assert list(row["us"]) == ["ours", "ours out=", "cupy" if own else "composed"]
    assert row["direction"] == ("forward" if direction == "forward" else "gradient")
    assert row["ratio"]["compiled"] is None


@pytest.mark.parametrize(
    ("name", "direction"), [("dot", "forward"), ("aggregate", "forward+backward")]
)
def test_row_of_a_framework(backend, name, direction):
    limits = backend.limits(seconds=0.001)
    assert set(limits["gb_per_s"]) == {"copy", "fill", "read"}
    assert min(*limits["gb_per_s"].values(), limits["gflops"]) > 0
    (case,) = cases.chosen([name], None, on_gpu=True)
    row = backend.row(case, "bfloat16", direction, seconds=0.001)
    check_row(row)
    (compiler,) = backend.framework.compilers
    columns = ["ours", "composed", f"ours {compiler}", f"composed {compiler}"]
    assert list(row["us"]) == columns
    assert row["ratio"]["compiled"] is not None


def test_framework_without_a_gpu_is_left_out(tiny, capsys):
    if BACKEND not in ("jax", "torch") or gpu.Backend(BACKEND).why_not() is None:
        pytest.skip("the framework sees a GPU, or there is none")
    assert cli._measure(gpu.Backend(BACKEND), None)["rows"] == []
    assert f"{BACKEND} is left out: {BACKEND}" in capsys.readouterr().out.replace("JAX", "jax")
    with pytest.raises(CommandError, match="bench: --gpu: no framework sees the GPU"):
        gpu.best({})


def test_all_of_the_command_on_a_gpu(emulated, tmp_path, monkeypatch, capsys):
    def run_here(name, part, more):
        monkeypatch.setenv("MLAYERS_BENCH_PART", str(part))
        code = main([*sys.argv[1:], "--backend", name])
        monkeypatch.delenv("MLAYERS_BENCH_PART")
        return code

    path, picture = tmp_path / "bench.json", tmp_path / "roof.png"
    options = ["bench", "--gpu", "--seconds", "0.001", "--json", str(path), "--backend", "cupy"]
    has_matplotlib = importlib.util.find_spec("matplotlib") is not None
    options += ["--picture", str(picture)] if has_matplotlib else []
    monkeypatch.setattr(cli, "_run_part", run_here)
    monkeypatch.setattr(sys, "argv", ["mlayers", *options])
    assert main(options) == 0
    found = json.loads(path.read_text())
    keys = ("command", "machine", "limits", "rows", "tower", "growth", "overhead_us")
    assert set(found) == {*keys, "gb_per_s", "gflops"}
    assert found["machine"]["gpu"]["device"] == "Emulated GPU"
    assert found["machine"]["gpu"]["compute_capability"] == "9.0"
    assert found["machine"]["gpu"]["driver_cuda"] == "13.0"
    assert found["machine"]["gpu"]["cuda"] == "12.9"
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["gb_per_s"] == found["limits"]["cupy"]["gb_per_s"]
    assert found["gflops"] == found["limits"]["cupy"]["gflops"] > 0
    assert found["overhead_us"]["cupy"]["ours"] > 0
    assert [(row["op"], row["direction"]) for row in found["rows"]] == [
        (op, direction) for op in TINY for direction in ("forward", "gradient")
    ]
    printed = capsys.readouterr().out
    assert "cupy knows no bfloat16: rows in it are left out" in printed
    assert "Emulated GPU, 8 GB, compute capability 9.0; driver" in printed
    for row in found["rows"]:
        check_row(row)
        assert f"ratio: eager {row['ratio']['eager']:.2f}, best" in printed
    assert not has_matplotlib or picture.read_bytes().startswith(b"\x89PNG")


def changed(case, **fields):
    return type(case)(**{**vars(case), **fields})


def test_different_results_are_not_compared_on_a_gpu(emulated):
    def wrong(left, right):
        product = cases.multiply(4, 2, 3, 4).numpy(left, right)
        product[3, 23] = 1e3  # far from the first
        return product

    case = changed(cases.multiply(4, 2, 3, 4), numpy=wrong)
    with pytest.raises(RuntimeError, match=r"cupy: multiply .* 'cupy' and 'ours' differ"):
        gpu.Backend("cupy").row(case, "float32", "forward", seconds=0.001)


def test_out_that_is_not_written_is_caught(emulated):
    right = cases.gate(4, 8)
    case = changed(
        right, ours=lambda *arrays, out=None: right.ours(*arrays) if out is None else out
    )
    with pytest.raises(RuntimeError, match="'ours out=' and 'ours' differ"):
        gpu.Backend("cupy").row(case, "float32", "forward", seconds=0.001)


def test_what_cannot_run_on_a_gpu_is_left_out_unless_it_is_ours(emulated, capsys):
    def fail(*arrays, **out):
        raise MemoryError("too much\nfor this GPU")

    cupy = gpu.Backend("cupy")
    row = cupy.row(changed(cases.gate(4, 8), numpy=fail), "float32", "forward", seconds=0.001)
    assert row["left_out"] == {"cupy": "MemoryError: too much"}
    assert row["ratio"]["best"] is None
    assert (
        "'cupy' cannot run here and is left out: MemoryError: too much" in capsys.readouterr().out
    )
    with pytest.raises(MemoryError):
        cupy.row(changed(cases.gate(4, 8), ours=fail), "float32", "forward", seconds=0.001)


def test_equal_looks_at_every_number(tiny):
    one = np.arange(105.0).reshape(21, 5)
    assert gpu.equal(one, one + 1e-3, 1e-4)
    for place in ((0, 0), (20, 4)):
        for value in (1e3, math.nan):
            other = one.copy()
            other[place] = value
            assert not gpu.equal(one, other, 1e-4)
            assert not gpu.equal(other, one, 1e-4)
    assert not gpu.equal(one, one[:, :1], 1e3)


def test_numbers_are_one_block_repeated(emulated):
    cupy = gpu.Backend("cupy")
    numbers = cupy._numbers((3, 5), "float32", seed=1).get().ravel()
    assert numbers.dtype == np.float32
    np.testing.assert_array_equal(numbers[:8], numbers[7:])
    assert len(set(numbers)) == 7
    assert cupy._numbers((2, 1), "float16").shape == (2, 1)


def test_version_of_a_driver(tmp_path):
    path = tmp_path / "version"
    path.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release")
    assert gpu._driver(path) == "575.57.08"
    assert gpu._driver(tmp_path / "missing") == "not told"
