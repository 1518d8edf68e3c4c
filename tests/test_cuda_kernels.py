# SPDX-License-Identifier: Apache-2.0
"""Every CUDA kernel, run in the emulator between guards, against the float64 reference."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlayers.kernels_cu import driver, plan

from mlayers import kernels_cu
from mlayers.op import OPS
from support import cuda_cases, emulated_cuda, emulator
from support.op_examples import DTYPES

pytestmark = pytest.mark.skipif(not emulator.IS_HERE, reason="the emulator needs Linux")

MODULES = sorted({op.module for op in OPS.values()})
TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-6, "float64": 1e-14}


def check(case, dtype):
    """Run the kernels and compare; sums may be off by rounding of their largest terms."""
    op, _, values = case
    arrays = cuda_cases.arrays(case, dtype)
    found = emulated_cuda.run(op, arrays, values)
    for one, other in zip(found, cuda_cases.reference(case, arrays), strict=True):
        assert one.shape == other.shape
        scale = TOLERANCE[dtype] * max(1.0, np.abs(other).max(initial=0.0))
        np.testing.assert_allclose(one.astype("float64"), other, rtol=TOLERANCE[dtype], atol=scale)


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cuda_cases.SMALL, ids=cuda_cases.identity)
def test_kernels_agree_with_the_reference(case, dtype, order):
    with emulator.order(order):
        check(case, dtype)


def test_cases_go_through_every_kernel():
    started = set()
    for op, shapes, values in cuda_cases.SMALL:
        chosen = plan(op, "float32", shapes, values)
        started |= {launch.kernel for launch in chosen.launches if 0 not in launch.blocks}
    assert started == {name for module in MODULES for name in kernels_cu.kernels(module)}


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_ffm_of_any_shape(data):
    limits = {"B": (0, 9), "L": (0, 20), "R": (0, 20), "D": (1, 20)}
    B, L, R, D = (data.draw(st.integers(*limits[name]), label=name) for name in limits)
    for case in cuda_cases.ffm(B, L, R, D, data.draw(st.sampled_from(["multiply", "dot"]))):
        check(case, data.draw(st.sampled_from(["float32", "bfloat16"])))


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_feature_insight_of_any_shape(data):
    sizes = tuple(data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=4), label="sizes"))
    B, K = data.draw(st.integers(0, 70), label="B"), data.draw(st.integers(0, 140), label="K")
    for case in cuda_cases.insight(B, sizes, K, data.draw(st.booleans())):
        check(case, "float32")


# --- barriers ---

BARRIER = "__syncthreads();"
BARRIERS = [
    (module, number)
    for module in MODULES
    for number in range(kernels_cu.source(module, "float32", ()).count(BARRIER))
]


@pytest.mark.parametrize(("module", "number"), BARRIERS)
def test_a_removed_barrier_is_found(monkeypatch, module, number):
    """Whichever barrier is forgotten, some result is wrong in one of the orders."""
    whole = kernels_cu.source

    def without(*arguments):
        before = whole(*arguments).split(BARRIER)[: number + 1]
        after = whole(*arguments).split(BARRIER)[number + 1 :]
        return BARRIER.join(before) + BARRIER.join(after)

    monkeypatch.setattr(driver, "_source", without)
    assert any(_fails(case, order) for case in _cases_of(module) for order in emulator.ORDERS)


def _cases_of(module):
    return [case for case in cuda_cases.SMALL if OPS[case[0]].module == module]


def _fails(case, order):
    try:
        with emulator.order(order):
            check(case, "float32")
    except (AssertionError, driver.CudaError):
        return True
    return False


# --- how kernels are started ---


def test_refused_launch_names_op_and_kernel(monkeypatch):
    case = cuda_cases.ffm(2, 2, 3, 4, "dot")[0]
    monkeypatch.setattr(emulator, "compile", lambda source: _Lost())
    with pytest.raises(
        driver.CudaError, match=r"^ffm: CUDA did not start the kernel ffm_dot: .*400"
    ):
        check(case, "float32")


class _Lost:
    def function(self, name):
        return 0


def test_thread_that_the_device_does_not_know(monkeypatch):
    """CUDA's driver refuses a thread until its runtime has been called there."""
    bound = []

    class Strict(emulated_cuda.Emulated):
        @property
        def library(self):
            launch = super().library.cuLaunchKernel
            return SimpleNamespace(cuLaunchKernel=launch if bound else lambda *_: 201)

        def bind(self, device):
            bound.append(device)

    monkeypatch.setattr(emulated_cuda, "Emulated", Strict)
    check(cuda_cases.ffm(2, 2, 3, 4, "dot")[0], "float32")
    assert bound == [0]


def test_kernel_that_does_not_compile_names_the_op(monkeypatch):
    monkeypatch.setattr(driver, "_source", lambda *_: 'extern "C" __global__ void ffm_dot( {')
    with pytest.raises(
        driver.CudaError, match=r"(?s)^ffm: its CUDA kernel did not compile: .*error"
    ):
        check(cuda_cases.ffm(2, 2, 3, 4, "dot")[0], "float32")


def test_compiled_once(monkeypatch):
    compiled = []
    before = emulator.compile
    monkeypatch.setattr(emulator, "compile", lambda s: compiled.append(s) or before(s))
    op, shapes, values = cuda_cases.elementwise(3)[0]
    arrays = [emulator.guarded(3, "float32") for _ in range(3)]
    pointers = [array.ctypes.data for array in arrays]
    with emulated_cuda.emulated():
        for _ in range(3):
            chosen = plan(op, "float32", shapes, values)
            driver.run(OPS[op], "float32", chosen, pointers, lambda size: 0, 0, 0)
    assert len(compiled) == 1


def test_shapes_without_a_kernel():
    assert plan("ffm", "float32", ((2, 64 * 100), (2, 64 * 100)), (100, "dot")) is None
    many = (1,) * 10_000
    assert plan("feature_insight", "float32", ((2, 10_000), (10_000, 3)), (many, False)) is None


def test_more_than_2_31_elements_are_planned():
    """Blocks along y are few; offsets are 64 bits wide in every kernel."""
    chosen = plan("ffm", "float32", ((1, 46341), (1, 46341)), (1, "multiply"))
    (launch,) = chosen.launches
    assert launch.blocks[0] < 1 << 31
    assert launch.blocks[1] < 1 << 16


def test_why_not_is_a_sentence():
    assert driver.why_not() is None or "CuPy" in driver.why_not()
