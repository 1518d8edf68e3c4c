# SPDX-License-Identifier: Apache-2.0
"""The thread pool: its limits, forks, many callers at once, and that it sleeps between calls."""

import ctypes.util
import os
import platform
import threading
import time

import numpy as np
import pytest

import mlayers
from support import programs

GENERATOR = np.random.default_rng(0)
LEFT = GENERATOR.standard_normal((4000, 64)).astype("float32")  # worth several threads
RIGHT = GENERATOR.standard_normal((4000, 96)).astype("float32")


@pytest.fixture(autouse=True)
def kernels_and_same_threads_after():
    before = mlayers.get_num_threads()
    with mlayers.use_kernels("auto"):
        yield
    mlayers.set_num_threads(before)


def run(program, **environment):
    environment = {"MLAYERS_KERNELS": "auto", **environment}
    return programs.finish(programs.start("-c", program, **environment), timeout=120)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (0, ValueError, "'threads' must be at least 1. Received: threads=0"),
        (-1, ValueError, "'threads' must be at least 1"),
        (2.0, TypeError, "'threads' must be an integer. Received: threads=2.0"),
        ("2", TypeError, "'threads' must be an integer"),
        (None, TypeError, "'threads' must be an integer"),
        (True, TypeError, "'threads' must be an integer"),
    ],
)
def test_wrong_numbers_are_refused(value, error, words):
    before = mlayers.get_num_threads()
    with pytest.raises(error, match=f"set_num_threads: {words}"):
        mlayers.set_num_threads(value)
    assert mlayers.get_num_threads() == before


def test_number_is_kept():
    for threads in (1, 3, np.int64(2)):
        mlayers.set_num_threads(threads)
        assert mlayers.get_num_threads() == threads
    assert mlayers.show_config(mode="dict")["cpu kernels"]["threads"] == 2


@pytest.mark.parametrize(
    ("value", "threads"), [("3", "3"), ("5,2", "5"), ("", None), ("zero", None), ("0", None)]
)
def test_omp_num_threads(value, threads):
    cores = str(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None
    found = run("import mlayers; print(mlayers.get_num_threads())", OMP_NUM_THREADS=value)
    assert found == (threads or cores or found)


def test_threadpoolctl():
    import threadpoolctl

    mlayers.set_num_threads(3)
    (ours,) = (i for i in threadpoolctl.threadpool_info() if i["user_api"] == "mlayers")
    assert ours["num_threads"] == 3
    with threadpoolctl.threadpool_limits(1):
        assert mlayers.get_num_threads() == 1
    assert mlayers.get_num_threads() == 3


@pytest.mark.parametrize("int_type", ["multiply", "dot"])
def test_results_do_not_depend_on_the_number(int_type):
    found = []
    for threads in (1, 2, 3, 16):
        mlayers.set_num_threads(threads)
        out = mlayers.ffm(LEFT, RIGHT, 8, int_type)
        found.append((out, *mlayers.ffm_grad(np.cos(out), LEFT, RIGHT, 8, int_type)))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_threads_round_as_the_caller_does():
    """The mode of rounding is a thread's own, and so is whether subnormals are 0."""
    upward = {"x86_64": 0x800, "aarch64": 0x400000}.get(platform.machine())
    libm = ctypes.util.find_library("m")
    if upward is None or libm is None:
        pytest.skip("FE_UPWARD is not known here")
    fesetround = ctypes.CDLL(libm).fesetround
    to_nearest = mlayers.ffm(LEFT, RIGHT, 8)  # whose threads are there from now on
    assert fesetround(upward) == 0
    try:
        found = [mlayers.ffm(LEFT, RIGHT, 8) for _ in range(5)]
        mlayers.set_num_threads(1)
        alone = mlayers.ffm(LEFT, RIGHT, 8)
    finally:
        fesetround(0)
    assert (alone > to_nearest).any()
    for one in found:
        np.testing.assert_array_equal(one, alone)


def test_threads_are_started_and_used():
    """Where /proc tells: a call beyond the threshold has helpers, a small one has not."""
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("/proc/self/task is Linux's")
    program = (
        "import os, numpy as np, mlayers\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "mlayers.set_num_threads(4)\n"
        "x = np.ones((2000, 512), 'float32')\n"
        "before = count()\n"
        "mlayers.lhuc_gate(x[:10], x[:10])\n"
        "small = count()\n"
        "mlayers.lhuc_gate(x, x)\n"
        "print(small - before, count() - before)\n"
    )
    assert run(program) == "0 3"


def test_idle_threads_use_no_processor():
    mlayers.set_num_threads(4)
    mlayers.ffm(LEFT, RIGHT, 8)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_many_callers_at_once():
    mlayers.set_num_threads(3)
    expected = mlayers.ffm(LEFT, RIGHT, 8)
    wrong = []

    def work():
        wrong.extend(
            call for call in range(10) if not np.array_equal(mlayers.ffm(LEFT, RIGHT, 8), expected)
        )

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_fork_while_other_threads_compute():
    """The child gets a pool of its own, and waits for no thread that is not there."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork()")
    program = (
        "import os, threading, numpy as np, mlayers\n"
        "mlayers.set_num_threads(4)\n"
        "x = np.ones((3000, 512), 'float32')\n"
        "mlayers.lhuc_gate(x, x)\n"
        "stop = threading.Event()\n"
        "def work():\n"
        "    while not stop.is_set():\n"
        "        mlayers.lhuc_gate(x, x)\n"
        "threads = [threading.Thread(target=work) for _ in range(3)]\n"
        "for t in threads: t.start()\n"
        "codes = []\n"
        "for _ in range(20):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        right = abs(mlayers.lhuc_gate(x, x)[-1, -1] - 1.4621172) < 1e-6\n"
        "        used = len(os.listdir('/proc/self/task')) if os.path.isdir('/proc/self') else 4\n"
        "        os._exit(0 if right and used == 4 else 3)\n"
        "    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "stop.set()\n"
        "for t in threads: t.join()\n"
        "print(set(codes))\n"
    )
    assert run(program) == "{0}"
