# SPDX-License-Identifier: Apache-2.0
"""What a graph of torch.compile depends on: the path in force, and nothing else of the process."""

import os
import sys
from threading import Thread
from types import ModuleType

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND") != "torch":
    pytest.skip("the torch bridge needs KERAS_BACKEND=torch", allow_module_level=True)

import torch

import mlayers
from mlayers import dispatch
from support.tensors import keras_ops_can_be_traced

TENSORS = torch.ones(2, 3), torch.zeros(2, 3)


class Compiled:
    """A compiled function that holds, for each of its graphs, whether one of our ops is in it."""

    def __init__(self, function):
        torch._dynamo.reset()
        self.with_kernel = []
        self._call = torch.compile(function, backend=self._keep)

    def _keep(self, graph, _):
        self.with_kernel.append(any("mlayers" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    def __call__(self):
        """In this thread; twice, for what holds only once."""
        for _ in range(2):
            assert self._call(*TENSORS).tolist() == [[1.0] * 3] * 2

    def in_a_thread(self):
        failed = []

        def work():
            try:
                self()
            except BaseException as error:
                failed.append(error)

        thread = Thread(target=work)
        thread.start()
        thread.join()
        assert failed == []


def composed(*tensors):
    with mlayers.use_kernels("composition"):
        return mlayers.lhuc_gate(*tensors)


def test_compiled_once_whatever_else_the_process_does(monkeypatch):
    """What a graph depends on must not change when other arrays come, or CuPy is loaded."""
    monkeypatch.setattr(dispatch.arrays, "_library_of_type", {})
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    graphs = []

    def compile_graph(graph, _):
        monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *tensors: mlayers.lhuc_gate(*tensors), backend=compile_graph, fullgraph=True
    )
    tensors = torch.ones(2, 3), torch.zeros(2, 3)
    compiled(*tensors)
    for kind in (np.ndarray, type("Other", (np.ndarray,), {})):
        mlayers.ffm(*(np.ones((2, 4)).view(kind) for _ in range(2)), 4)
        compiled(*tensors)
    mlayers.lhuc_gate(*tensors)
    assert compiled(*tensors).tolist() == [[1.0] * 3] * 2
    assert len(graphs) == 1


def test_what_a_graph_does_not_depend_on():
    """The list of modules, all of which dynamo goes through: half of the time to trace an op."""
    found = torch._dynamo.explain(mlayers.lhuc_gate)(torch.ones(2, 3), torch.zeros(2, 3))
    assert found.graph_count == 1
    assert [guard.name for guard in found.out_guards if "sys.modules" in guard.name] == []


needs_tracing = pytest.mark.skipif(
    not keras_ops_can_be_traced(),
    reason="this torch cannot trace keras.ops, of which the composition is made",
)


@needs_tracing
def test_path_forced_inside_what_is_compiled():
    compiled = Compiled(composed)
    compiled()
    compiled.in_a_thread()
    assert compiled.with_kernel
    assert not any(compiled.with_kernel)


@needs_tracing
def test_path_forced_around_what_is_compiled():
    compiled = Compiled(mlayers.lhuc_gate)
    compiled()
    assert compiled.with_kernel == [True]
    with mlayers.use_kernels("composition"):
        compiled()
    graphs = compiled.with_kernel[1:]  # not always one: Keras keeps state of its own
    assert graphs
    assert not any(graphs)


def test_path_forced_here_is_not_forced_in_another_thread():
    """A graph that forces a path must leave none behind, in whichever thread it is made."""
    inside, plain = Compiled(composed), Compiled(mlayers.lhuc_gate)
    inside()
    for _ in range(2):
        plain.in_a_thread()
        plain()
        inside.in_a_thread()
        with mlayers.use_kernels("composition"):
            plain.in_a_thread()
    assert plain.with_kernel
    assert all(plain.with_kernel)
