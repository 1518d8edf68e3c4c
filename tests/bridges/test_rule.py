# SPDX-License-Identifier: Apache-2.0
"""The measured rule decides between kernel and composition, and nothing else changes with it."""

import os

import numpy as np
import pytest

import mlayers
from mlayers.dispatch import cpu
from mlayers.op import LARGE, OPS

BACKEND = os.environ.get("KERAS_BACKEND")
INSIGHT, GRAD = OPS["feature_insight"], OPS["feature_insight_grad"]


@pytest.mark.parametrize(
    ("library", "size", "units", "aggregate", "kernel"),
    [
        ("numpy", 16, 64, False, True),
        ("numpy", 512, 64, False, False),
        ("torch", 512, 64, False, True),
        ("torch", 512, 512, False, False),
        ("jax", 512, 512, False, True),
        ("numpy", 512, 512, True, True),  # the composition would hold (B, K)
    ],
)
def test_forward(library, size, units, aggregate, kernel):
    shapes = [(8, 2 * size), (2 * size, units)]
    assert INSIGHT.takes_kernel(library, shapes, ((size, size), aggregate)) is kernel


@pytest.mark.parametrize(
    ("size", "units", "kernel"), [(16, 64, True), (128, 64, False), (128, 65, True)]
)
def test_gradient_of_the_aggregate(size, units, kernel):
    shapes = [(8, 2), (8, 2 * size), (2 * size, units)]
    assert GRAD.takes_kernel("jax", shapes, ((size, size), True)) is kernel


def test_size_that_is_not_known_takes_the_kernel():
    assert INSIGHT.takes_kernel("numpy", [(None, 1024), (1024, 512)], ((1024,), False))


@pytest.mark.parametrize("path", ["auto", "cython"])
def test_numpy_follows_it_unless_forced(path, monkeypatch):
    x, weight = np.ones((3, 512), "float32"), np.ones((512, 64), "float32")
    calls = []
    run = cpu._run_kernel
    monkeypatch.setattr(cpu, "_run_kernel", lambda *a: calls.append(a[0].name) or run(*a))
    out = np.empty((3, 64), "float32")
    with mlayers.use_kernels(path):
        assert mlayers.feature_insight(x, weight, (512,), out=out) is out
    assert (out == 512).all()
    assert calls == (["feature_insight"] if path == "cython" else [])


@pytest.mark.skipif(BACKEND != "torch", reason="KERAS_BACKEND is not torch")
@pytest.mark.parametrize(
    ("path", "batch", "kernel"),
    [("auto", 8, False), ("cython", 8, True), ("auto", LARGE // (4 * 64) + 1, True)],
)
def test_torch_compile_fuses_what_is_small(path, batch, kernel):
    import torch
    from torch._dynamo.backends.common import aot_autograd

    graphs = []

    def record(graph, _):
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return graph.forward

    backend = aot_autograd(fw_compiler=record, bw_compiler=record)
    left, right = (torch.randn(batch, 16, requires_grad=True) for _ in range(2))
    with mlayers.use_kernels(path):
        compiled = torch.compile(lambda *t: mlayers.ffm(*t, 4), backend=backend, fullgraph=True)
        out = compiled(left, right)
        out.sum().backward()
    forward, backward = graphs
    assert ("mlayers.ffm.default" in forward) is kernel
    assert "mlayers.ffm_grad.default" in backward  # which was faster in every case
    with mlayers.use_kernels("reference"):
        expected = mlayers.ffm(left.detach().numpy(), right.detach().numpy(), 4)
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
