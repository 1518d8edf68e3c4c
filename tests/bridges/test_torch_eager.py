# SPDX-License-Identifier: Apache-2.0
"""Calls like one that was served before: they take the short way, and nothing else does."""

import os

import pytest

if os.environ.get("KERAS_BACKEND") != "torch":
    pytest.skip("the torch bridge needs KERAS_BACKEND=torch", allow_module_level=True)

import keras
import numpy as np
import torch

import mlayers
from mlayers.bridges import torch_eager
from mlayers.dispatch import arrays
from support.known_calls import is_known
from support.torch_cases import FFM, assert_close, every_case

LEFT, RIGHT = torch.randn(3, 8), torch.randn(3, 4)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(torch_eager, "_known", {})
    with keras.device("cpu"):  # where the tensors are; the composition moves them to Keras' device
        yield


@every_case
def test_known_call_gives_the_same(case, monkeypatch):
    tensors = case.tensors()
    expected = case(*tensors)
    assert_close(case(*tensors), expected)
    has_list = any(attribute.kind == "int[]" for attribute in case.op.attributes)
    has_float = any(attribute.kind == "float" for attribute in case.op.attributes)
    assert is_known(monkeypatch, lambda: case(*tensors)) is not (has_list or has_float)


def test_known_call_is_differentiated(monkeypatch):
    FFM(*FFM.tensors())
    leaves = [tensor.requires_grad_() for tensor in FFM.tensors()]
    found = []
    assert is_known(monkeypatch, lambda: found.append(FFM(*leaves)))
    grads = torch.autograd.grad(found[0].sum(), leaves)
    with mlayers.use_kernels("composition"):
        expected = torch.autograd.grad(FFM(*leaves).sum(), leaves)
    assert_close(grads, expected)


ANOTHER = {
    "batch": lambda: mlayers.ffm(LEFT[:2], RIGHT[:2], 4),
    "dtype": lambda: mlayers.ffm(LEFT.double(), RIGHT.double(), 4),
    "attribute": lambda: mlayers.ffm(LEFT, RIGHT, 2),
    "word": lambda: mlayers.ffm(LEFT, RIGHT, 4, "dot"),
    "type of an attribute": lambda: mlayers.ffm(LEFT, RIGHT, np.int64(4)),
    "op": lambda: mlayers.ffm_grad(torch.ones(3, 8), LEFT, RIGHT, 4),
}


@pytest.mark.parametrize("what", ANOTHER)
def test_another_call_is_looked_at(what, monkeypatch):
    mlayers.ffm(LEFT, RIGHT, 4)
    assert not is_known(monkeypatch, ANOTHER[what])


WRONG = {
    "dtype": lambda: mlayers.ffm(LEFT, RIGHT.double(), 4),
    "integers": lambda: mlayers.ffm(LEFT.int(), RIGHT.int(), 4),
    "batch": lambda: mlayers.ffm(LEFT, RIGHT[:2], 4),
    "width": lambda: mlayers.ffm(LEFT[:, :7], RIGHT, 4),
    "library": lambda: mlayers.ffm(LEFT, RIGHT.numpy(), 4),
    "bool": lambda: mlayers.ffm(LEFT[:, :1], RIGHT[:, :1], True),
    "float": lambda: mlayers.ffm(LEFT, RIGHT, 4.0),
    "word": lambda: mlayers.ffm(LEFT, RIGHT, 4, "sum"),
    "out": lambda: mlayers.ffm(LEFT, RIGHT, 4, out=torch.empty(3, 8)),
    "device": lambda: mlayers.ffm(LEFT, RIGHT.to("meta"), 4),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_call_is_refused_in_the_same_words(what):
    with pytest.raises((TypeError, ValueError)) as unknown:
        WRONG[what]()
    mlayers.ffm(LEFT, RIGHT, 4)
    mlayers.ffm(LEFT[:, :1], RIGHT[:, :1], 1)
    with pytest.raises((TypeError, ValueError)) as known:
        WRONG[what]()
    assert (known.type, str(known.value)) == (unknown.type, str(unknown.value))


def test_forced_path_is_kept():
    mlayers.ffm(LEFT, RIGHT, 4)
    with mlayers.use_kernels("reference"), pytest.raises(RuntimeError, match="'reference'"):
        mlayers.ffm(LEFT, RIGHT, 4)
    torch_eager._known.clear()
    with mlayers.use_kernels("composition"):
        mlayers.ffm(LEFT, RIGHT, 4)
    assert not torch_eager._known


def test_transformed_and_compiled_calls_see_what_they_must():
    expected = mlayers.ffm(LEFT, RIGHT, 4)
    mapped = torch.func.vmap(lambda x, y: mlayers.ffm(x, y, 4))(LEFT[None], RIGHT[None])
    assert_close(mapped[0], expected)
    _, tangent = torch.func.jvp(lambda x: mlayers.ffm(x, RIGHT, 4), (LEFT,), (LEFT,))
    assert_close(tangent, expected)
    torch.compiler.reset()
    compiled = torch.compile(lambda x, y: mlayers.ffm(x, y, 4), backend="eager", fullgraph=True)
    assert_close(compiled(LEFT, RIGHT), expected)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        assert type(mlayers.ffm(LEFT, RIGHT, 4)) is torch._subclasses.FakeTensor


def test_subclass_is_looked_at(monkeypatch):
    class Mine(torch.Tensor):
        pass

    mlayers.ffm(LEFT, RIGHT, 4)
    assert not is_known(monkeypatch, lambda: mlayers.ffm(LEFT.as_subclass(Mine), RIGHT, 4))


def test_layout_is_asked_for():
    mlayers.ffm(LEFT, RIGHT, 4)
    with pytest.raises(RuntimeError, match="reshape is not implemented for sparse"):
        mlayers.ffm(LEFT.to_sparse(), RIGHT.to_sparse(), 4)  # composed: no kernel is for it


def test_what_is_known_stays_small(monkeypatch):
    monkeypatch.setattr(torch_eager, "_MOST_KNOWN", 4)
    for batch in range(1, 20):
        mlayers.ffm(torch.ones(batch, 4), torch.ones(batch, 4), 4)
        assert 0 < len(torch_eager._known) <= 4


def test_torch_is_known_without_having_been_announced(monkeypatch):
    """As where its loader was of a kind that lets nobody wait for it."""
    monkeypatch.setattr(arrays, "torch", None)
    monkeypatch.setattr(arrays, "_library_of_type", {})
    found = mlayers.lhuc_gate(torch.ones(2, 3), torch.zeros(2, 3))
    assert found.tolist() == [[1.0] * 3] * 2
    assert arrays.torch is torch
