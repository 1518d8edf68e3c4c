# SPDX-License-Identifier: Apache-2.0
"""torch's way to the CUDA kernels, on memory of the CPU with the kernels in the emulator."""

import contextlib
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND") != "torch":
    pytest.skip("torch's bridge", allow_module_level=True)

import torch
from mlayers.kernels_cu import driver

import mlayers
from mlayers.bridges import native, torch_cuda, torch_rules
from mlayers.op import OPS
from support import cuda_cases, emulated_cuda
from support.op_examples import DTYPES, TOLERANCE

CASES = [
    *cuda_cases.ffm(3, 2, 3, 4, "multiply"),
    *cuda_cases.ffm(7, 2, 3, 5, "dot"),
    *cuda_cases.ffm(2, 64, 64, 100, "dot"),  # no kernel: the composition
    *cuda_cases.insight(300, (5, 18), 70, False),  # scratch memory, three kernels
    *cuda_cases.insight(5, (2, 0, 1), 3, True),
    *cuda_cases.elementwise(5, 7),
]


@pytest.fixture
def on_the_gpu(monkeypatch):
    """A device of type cpu that is taken for a GPU."""
    assert native.bridge("torch") is not None
    monkeypatch.setattr(torch_cuda, "current_stream", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    with emulated_cuda.emulated():
        yield


def compute(case, tensors):
    op, _, values = case
    declared = OPS[op]
    return torch_cuda.compute(declared, tensors, torch_rules.encoded(declared, values))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=cuda_cases.identity)
def test_kernels_agree_with_the_reference(on_the_gpu, case, dtype):
    arrays = cuda_cases.arrays(case, dtype)
    tensors = [torch.from_numpy(a.astype("float64")).to(getattr(torch, dtype)) for a in arrays]
    found = compute(case, tensors)
    for one, other in zip(found, cuda_cases.reference(case, arrays), strict=True):
        assert one.dtype is tensors[0].dtype
        assert one.is_contiguous()
        scale = TOLERANCE[dtype]["atol"] * max(1.0, np.abs(other).max(initial=0.0))
        np.testing.assert_allclose(
            one.double().numpy(), other, rtol=TOLERANCE[dtype]["rtol"], atol=scale
        )


@pytest.mark.parametrize("layout", ["strided", "transposed", "unaligned"])
def test_any_memory_layout(on_the_gpu, layout):
    """A kernel reads 16 bytes at once, in C order: what lies otherwise is copied on the device."""
    for case in cuda_cases.elementwise(6, 7) + cuda_cases.ffm(6, 2, 3, 4, "multiply"):
        tensors = [torch.from_numpy(a) for a in cuda_cases.arrays(case, "float32")]
        expected = compute(case, tensors)
        moved = []
        for tensor in tensors:
            if layout == "strided":
                moved.append(torch.stack([tensor, tensor], -1)[..., 0])
            elif layout == "transposed":
                moved.append(tensor.T.contiguous().T)
            else:
                flat = torch.cat([tensor.ravel()[:1], tensor.ravel()])
                moved.append(flat[1:].reshape(tensor.shape))
        for one, other in zip(compute(case, moved), expected, strict=True):
            assert torch.equal(one, other)


def test_sizes_that_do_not_fit_are_the_front_doors_error(on_the_gpu):
    op = OPS["ffm"]
    with pytest.raises(ValueError, match=r"ffm: 'left' and 'right' must have the same batch size"):
        torch_cuda.compute(op, [torch.ones(2, 4), torch.ones(3, 4)], (4, 0))


@pytest.mark.parametrize("name", OPS)
def test_torch_knows_a_kernel_for_cuda(on_the_gpu, name):
    if why := native.bridge("torch")._refused.get(name):
        pytest.skip(f"this torch cannot have the op: {why}")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mlayers::{name}", "CUDA")


def test_without_kernels_the_composition_serves(monkeypatch):
    """A program that was exported with our ops runs where CuPy is not installed."""
    monkeypatch.setattr(driver, "why_not", lambda: "none")
    case = cuda_cases.ffm(3, 2, 3, 4, "multiply")[0]
    arrays = cuda_cases.arrays(case, "float32")
    (found,) = compute(case, [torch.from_numpy(a) for a in arrays])
    np.testing.assert_allclose(found.numpy(), mlayers.ffm(*arrays, 4), rtol=1e-6)


def test_without_a_gpu_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert torch_cuda.why_not() == "torch sees no GPU"
    assert "composition on a GPU (torch sees no GPU)" in native.state("torch")


def test_whether_there_is_a_gpu_is_found_out_while_a_graph_is_traced(monkeypatch):
    """By a call, which may start threads; torch.compile would trace a cached function itself."""
    from mlayers.bridges import torch as bridge

    @functools.cache
    def why_not():
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(str).result()

    monkeypatch.setattr(torch_cuda, "why_not", why_not)
    function = torch.compile(
        lambda x: x + len(bridge._why_not_on_gpu()), backend="eager", fullgraph=True
    )
    assert function(torch.ones(1)) == 1


@pytest.mark.parametrize(
    ("op", "values", "is_fused"),
    [
        ("ffm", (4, "multiply"), False),
        ("lhuc_gate", (), True),
        ("lhuc_gate_grad", (), True),
        ("weight_norm", (), True),
        ("weight_norm_grad", (), True),
    ],
)
def test_torch_compile_fuses_what_is_faster_so(op, values, is_fused):
    """On a GPU, however large the result."""
    tensor = SimpleNamespace(shape=(1 << 20, 64), device=torch.device("cuda"))
    arguments = (*[tensor] * len(OPS[op].inputs), *torch_rules.encoded(OPS[op], values))
    assert not torch_rules._is_fused(OPS[op], arguments)
    with torch._guards.tracing(torch._guards.TracingContext(None)):
        assert torch_rules._is_fused(OPS[op], arguments) == is_fused
