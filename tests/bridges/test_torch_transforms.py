# SPDX-License-Identifier: Apache-2.0
"""torch's transformations over every op: vmap, torch.func, higher derivatives, checkpoints."""

import itertools
import os

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND") != "torch":
    pytest.skip("the torch bridge needs KERAS_BACKEND=torch", allow_module_level=True)

import keras
import torch
from torch.utils.checkpoint import checkpoint

from support.array_checks import as_tuple
from support.torch_cases import assert_close, every_case, every_forward


@every_case
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_vmap(case, dim):
    tensors = case.tensors()
    stacks = [torch.stack([t, 2 * t, -t], dim=dim if t.ndim else 0) for t in tensors]
    for mapped in itertools.product([True, False], repeat=len(tensors)):
        if not any(mapped):
            continue
        chosen = [s if m else t for s, t, m in zip(stacks, tensors, mapped, strict=True)]
        found = torch.vmap(case, in_dims=tuple(dim if m else None for m in mapped))(*chosen)
        for i in range(3):
            one = [s.select(dim, i) if m else s for s, m in zip(chosen, mapped, strict=True)]
            assert_close(tuple(f[i] for f in as_tuple(found)), case(*one))


@every_case
def test_nested_vmap_and_empty_ones(case):
    stacks = [torch.stack([torch.stack([t, 2 * t, -t]), torch.stack([t, t, t])])
              for t in case.tensors()]  # fmt: skip
    found = torch.vmap(torch.vmap(case))(*stacks)
    assert_close(tuple(f[0, 1] for f in as_tuple(found)), case(*(s[0, 1] for s in stacks)))
    empty = torch.vmap(torch.vmap(case))(*(s[:, :0] for s in stacks))
    assert [e.shape[:2] for e in as_tuple(empty)] == [(2, 0)] * len(as_tuple(empty))


@every_forward
def test_torch_func(case):
    every = tuple(range(len(case.op.inputs)))
    tensors = case.tensors(torch.float64)

    def loss(*t):
        return case(*t).sin().sum()

    leaves = [t.clone().requires_grad_() for t in tensors]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    gradient = torch.func.grad(loss, argnums=every)
    assert_close(gradient(*tensors), expected)
    mapped = torch.vmap(gradient)(*(torch.stack([t, 2 * t]) for t in tensors))
    assert_close(tuple(m[0] for m in mapped), expected)
    jacobians = torch.func.jacrev(case, argnums=every)(*tensors)
    assert_close(jacobians, torch.autograd.functional.jacobian(case, tuple(tensors)))
    if case.takes_upstream:
        assert_close(torch.func.jacfwd(case, argnums=every)(*tensors), jacobians)
        reverse = torch.func.jacrev(gradient)(*tensors)
        assert_close(torch.func.jacfwd(gradient)(*tensors), reverse)
    else:
        with pytest.raises(NotImplementedError, match="forward mode is not defined"):
            torch.func.jacfwd(case)(*tensors)


@every_case
def test_higher_derivatives(case):
    if case.takes_upstream:
        leaves = [t.requires_grad_() for t in case.tensors(torch.float64)]
        assert torch.autograd.gradgradcheck(case, leaves)


@every_forward
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(case, reentrant):
    leaves = [t.requires_grad_() for t in case.tensors()]
    expected = torch.autograd.grad(case(*leaves).sin().sum(), leaves)
    checkpoint(lambda *t: case(*t).sin(), *leaves, use_reentrant=reentrant).sum().backward()
    assert_close(tuple(leaf.grad for leaf in leaves), expected)


@pytest.mark.parametrize("jit", [False, True])
def test_remat(jit):
    from mlayers.layers import LHUCTower

    losses = []
    for mode in (None, "full"):
        keras.utils.set_random_seed(0)
        with keras.RematScope(mode=mode):
            inputs = keras.Input((8,))
            outputs = keras.layers.Dense(1)(LHUCTower(output_dims=[4, 4])(inputs))
            model = keras.Model(inputs, outputs)
        model.compile("sgd", "mse", jit_compile=jit)
        x = np.random.default_rng(0).standard_normal((32, 8)).astype("float32")
        fit = model.fit(x, x[:, :1], batch_size=16, epochs=2, shuffle=False, verbose=0)
        losses.append(fit.history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
