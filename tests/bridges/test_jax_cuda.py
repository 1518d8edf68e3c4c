# SPDX-License-Identifier: Apache-2.0
"""JAX on a GPU, without one: the whole path, run by XLA on the CPU and the emulator of kernels."""

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mlayers.op import OPS
from support.bridge_calls import BATCHED, CALLS
from support.op_examples import DTYPES, TOLERANCE

if os.environ.get("KERAS_BACKEND") != "jax":
    pytest.skip("KERAS_BACKEND is not jax", allow_module_level=True)
if sys.platform != "linux" or not shutil.which("cc") or not shutil.which("c++"):
    pytest.skip("the emulator of kernels needs Linux and compilers", allow_module_level=True)

import jax

from support import jax_cuda_cases
from support.programs import result

LAUNCHES = {"wide": 3, "insight in parts": 4, "aggregate in parts": 4}  # others: one per op
names = pytest.mark.parametrize("name", CALLS)
batched_names = pytest.mark.parametrize("name", BATCHED)


@pytest.fixture(scope="module")
def programs():
    """What the programs print that run at the same time, each in a process of its own."""
    environment = {
        "MLAYERS_KERNELS": "cython",  # those of this device, for every op
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    with ThreadPoolExecutor() as pool:
        started = {
            what: pool.submit(result, "-m", "support.jax_cuda_cases", what, **environment)
            for what in ("cases", "devices", "texts")
        }
    return {what: future.result() for what, future in started.items()}


@pytest.fixture
def seen(programs):
    return programs["cases"]


def test_every_differentiable_op_has_a_case():
    cases = {op for op, _, _ in jax_cuda_cases.CASES.values()}
    assert cases == {name for name, op in OPS.items() if op.gradient}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", jax_cuda_cases.CASES)
def test_results_and_gradients_are_those_of_the_reference(seen, name, dtype):
    case = seen["cases"][f"{name} {dtype}"]
    assert case["targets"] == ["mlayers_cuda"]  # and so no Python callback
    assert case["dtypes"] == [dtype]
    assert case["launches"] == LAUNCHES.get(name, 2)
    assert case["jit"] < TOLERANCE[dtype]["rtol"]
    assert case["eager"] < TOLERANCE[dtype]["rtol"]


def test_programs_are_the_same_in_every_process(programs):
    """No address is in them; they were made before any kernel ran, and after all had run."""
    texts = programs["texts"]
    assert texts == programs["cases"]["texts"]
    assert all("@mlayers_cuda(" in text for text in texts.values())


@names
def test_mapped_axis_joins_the_batch(seen, name):
    mapped = seen["mapped"][name]
    assert mapped["targets"] == (["mlayers_cuda"] if mapped["folds"] else [])
    assert mapped["folds"] == (CALLS[name][0] not in ("feature_insight", "weight_norm"))
    assert mapped["error"] < 1e-5


@batched_names
@pytest.mark.parametrize("direction", ["forward", "gradient", "shard_map"])
def test_split_batch_stays_split(programs, name, direction):
    devices = programs["devices"]
    if direction == "shard_map" and f"{name} shard_map" not in devices:
        pytest.skip("this JAX has no jax.shard_map")
    found = devices[f"{name} {direction}"]
    op = OPS[CALLS[name][0]]
    axes = op.output_axes if direction == "forward" else op.input_axes
    assert found["targets"] == ["mlayers_cuda"]
    assert found["all-gathers"] == 0
    assert found["all-reduces"] == int(direction != "forward" and "nk" in axes)
    assert found["specs"] == [["batch"] if a.startswith(("b", "...")) else [] for a in axes]
    assert found["error"] < 1e-5


def test_keras_data_parallel_trains_as_one_device_does(programs):
    losses = programs["devices"]["losses"]
    np.testing.assert_allclose(losses["four"], losses["one"], rtol=1e-4)
    assert losses["one"][-1] < losses["one"][0]


@batched_names
def test_empty_batch(seen, name):
    assert seen["empty"][name] == 0


@names
@pytest.mark.parametrize("why", ["unplanned", "exported"])
def test_composition_where_there_is_no_kernel(seen, name, why):
    found = seen["without kernel"][f"{name} {why}"]
    assert found["targets"] == []
    assert found["error"] < 1e-5


def test_xla_has_the_formula_where_it_is_faster(seen):
    left_to_xla = [name for name in CALLS if not seen["without kernel"][f"{name} auto"]]
    assert sorted(left_to_xla) == ["counter", "gate", "norm"]


def test_second_run_needs_no_python(seen):
    again = seen["again"]
    assert again.pop("error") < 1e-5
    assert again == {"asked": 0, "calls": 2, "launches": 4}


def test_threads_that_need_a_kernel_at_once(seen):
    """Each device compiles it once, whoever came first."""
    count, worst = seen["threads"]["errors"]
    tells_the_device = jax.__version_info__ >= (0, 6)  # if not, the shim says 0 for all
    assert seen["threads"]["loaded"] == ([0, 1, 2, 3] if tells_the_device else [0])
    assert count == 160
    assert worst < 1e-5


def test_errors_have_words(seen):
    words = seen["failures"]
    failed = "ffm: its CUDA kernel did not compile: "
    assert failed + "expected a ';'" in words["compiler"]
    assert failed + "\\xe9\\xe9" in words["long"]
    assert 900 < len(words["long"]) < 1100
    assert failed + "\\udc80" in words["odd"]
    assert "the kernel ffm_multiply was not found" in words["interrupt"]
    assert "CUDA did not start the kernel ffm_multiply: error 701" in words["launch"]
    assert words["after"] is None  # none of them is remembered


def test_malformed_programs_are_refused(seen):
    words = seen["malformed"]
    assert words.pop("right") is None
    for name, sentence in {
        "dtype": "a call without 'code', 'kernels' and 'launches'",
        "old": "fid_counter: the program was compiled by another version of mlayers",
        "cut": "a call with malformed 'launches' or 'kernels'",
        "many": "a call with malformed 'launches' or 'kernels'",
        "negative": "a call with malformed 'launches' or 'kernels'",
        "no name": "a call with malformed 'launches' or 'kernels'",
        "long name": "a call with malformed 'launches' or 'kernels'",
        "unknown name": "no kernel 'fid_clock' among fid_counter",
        "unknown code": "Expecting value",
        "no such input": "a call with too few arrays",
        "no such output": "a call with too few arrays",
    }.items():
        assert sentence in words.pop(name)
    assert not words
