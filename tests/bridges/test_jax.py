# SPDX-License-Identifier: Apache-2.0
"""The JAX bridge: the kernels in the compiled program, under every transformation."""

import os
import re
import threading

import numpy as np
import pytest

import mlayers
from mlayers.op import OPS
from support import programs
from support.bridge_calls import BATCHED, CALLS, arrays_of, call, gradients

if os.environ.get("KERAS_BACKEND") != "jax":
    pytest.skip("KERAS_BACKEND is not jax", allow_module_level=True)

import jax
import jax.numpy as jnp
from jax import export

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
names = pytest.mark.parametrize("name", CALLS)
batched_names = pytest.mark.parametrize("name", BATCHED)


def expected(name, *arrays):
    with mlayers.use_kernels("reference"):
        return call(name, *arrays)


def squares(name):
    return lambda *tensors: (call(name, *tensors) ** 2).sum()


def gradient(name):
    return jax.grad(squares(name), tuple(range(len(CALLS[name][1]))))


def targets(function, *tensors):
    """Everything that the compiled program calls outside of itself; a Python callback is one."""
    text = jax.jit(function).lower(*tensors).compile().as_text()
    return set(re.findall(r'custom_call_target="([^"]*)"', text))


def check(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


def test_bridge_is_native():
    assert mlayers.show_config(mode="dict")["bridges"]["jax"].startswith("kernels on the CPU")


@names
def test_program_holds_the_kernel_and_no_python(name):
    tensors = [jnp.asarray(a) for a in arrays_of(name)]
    for function in (lambda *t: call(name, *t), gradient(name)):
        assert targets(function, *tensors) == {"mlayers"}


def test_other_calls_are_seen():
    """So that the test above can fail."""
    shape = jax.ShapeDtypeStruct((), "float32")
    (target,) = targets(lambda x: jax.pure_callback(np.sin, shape, x), jnp.float32(1))
    assert "callback" in target
    with mlayers.use_kernels("composition"):
        assert targets(lambda x: mlayers.ffm(x, x, 2), jnp.ones((2, 4))) == set()


@pytest.fixture(scope="module")
def four_devices():
    return programs.result(
        "-m",
        "support.jax_devices",
        MLAYERS_KERNELS="auto",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )


@batched_names
@pytest.mark.parametrize("direction", ["forward", "gradient", "shard_map"])
def test_split_batch_stays_split(four_devices, name, direction):
    if direction == "shard_map" and not hasattr(jax, "shard_map"):
        pytest.skip("this JAX has no jax.shard_map")
    seen = four_devices[f"{name} {direction}"]
    assert seen["targets"] == ["mlayers"]
    assert seen["all-gathers"] == 0
    assert seen["error"] < 1e-4
    op = OPS[CALLS[name][0]]
    axes = op.output_axes if direction == "forward" else op.input_axes
    assert seen["specs"] == [["batch"] if a.startswith(("b", "...")) else [] for a in axes]
    # A weight's gradient is a sum over the batch: the devices add up their parts, once.
    sums = direction != "forward" and "nk" in axes
    assert seen["all-reduces"] == int(sums)


def test_elementwise_ops_stay_split_along_any_axis(four_devices):
    seen = four_devices["middle axis"]
    assert seen["all-gathers"] == 0
    assert seen["specs"] == [[None, "batch"]]
    assert seen["error"] == 0


def test_keras_data_parallel_trains_as_one_device_does(four_devices):
    losses = four_devices["losses"]
    np.testing.assert_allclose(losses["four"], losses["one"], rtol=1e-4)
    assert losses["one"][-1] < losses["one"][0]


@names
def test_without_jit_there_are_kernels_all_the_same(name):
    arrays = arrays_of(name)
    plain = call(name, *arrays)
    with jax.disable_jit():
        found = call(name, *map(jnp.asarray, arrays))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, **CLOSE), found, plain)


@batched_names
def test_vmap_over_nothing(name):
    tensors = [jnp.zeros((0, *array.shape), array.dtype) for array in arrays_of(name)]
    shapes = jax.eval_shape(lambda *t: call(name, *t), *arrays_of(name))
    found = jax.vmap(lambda *t: call(name, *t))(*tensors)
    assert [one.shape for one in jax.tree.leaves(found)] == [
        (0, *one.shape) for one in jax.tree.leaves(shapes)
    ]


def test_first_call_under_a_transfer_guard():
    program = """
import jax, mlayers
x = jax.device_put(1.0 + jax.numpy.arange(6, dtype="float32").reshape(2, 3))
jax.config.update("jax_transfer_guard", "disallow")
print(mlayers.lhuc_gate(x, x).shape, mlayers.show_config(mode="dict")["bridges"]["jax"][:7])
"""
    assert programs.output("-c", program) == "(2, 3) kernels"


@names
def test_vmap(name):
    op = OPS[CALLS[name][0]]
    stacks = [np.stack(pair) for pair in zip(arrays_of(name), arrays_of(name, 1), strict=True)]
    one_by_one = [expected(name, *(s[i] for s in stacks)) for i in range(2)]
    check(jax.jit(jax.vmap(lambda *t: call(name, *t)))(*stacks), one_by_one)
    nested = jax.vmap(jax.vmap(lambda *t: call(name, *t)))(*(s[None] for s in stacks))
    check(nested[0], one_by_one)
    # One input mapped and the others shared, along another axis than the first.
    for position, stack in enumerate(stacks):
        arrays = [s[0] for s in stacks]
        arrays[position] = np.moveaxis(stack, 0, -1)
        axes = [None] * len(arrays)
        axes[position] = -1
        found = jax.vmap(lambda *t: call(name, *t), tuple(axes))(*map(jnp.asarray, arrays))
        for i in range(2):
            arrays[position] = stack[i]
            np.testing.assert_allclose(found[i], expected(name, *arrays), **CLOSE)
    assert op.folds([True] * len(stacks)) == (name not in ("insight", "aggregate", "norm"))


@names
def test_vmap_of_grad_and_grad_of_vmap(name):
    stacks = [np.stack(pair) for pair in zip(arrays_of(name), arrays_of(name, 1), strict=True)]
    one_by_one = [gradients(name, *(s[i] for s in stacks)) for i in range(2)]
    wanted = [np.stack(pair) for pair in zip(*one_by_one, strict=True)]
    check(jax.jit(jax.vmap(gradient(name)))(*stacks), wanted)
    total = jax.grad(
        lambda *t: (jax.vmap(lambda *u: call(name, *u))(*t) ** 2).sum(), tuple(range(len(stacks)))
    )
    check(jax.jit(total)(*stacks), wanted)


@names
def test_second_derivative(name):
    tensors = [jnp.asarray(a) for a in arrays_of(name)]

    def slope(*t):
        return sum((g**2).sum() for g in gradient(name)(*t))

    found = jax.jit(jax.grad(slope))(*tensors)
    with mlayers.use_kernels("composition"):
        wanted = jax.jit(jax.grad(lambda *t: slope(*t)))(*tensors)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@names
def test_scan_checkpoint_and_donation(name):
    arrays = arrays_of(name)
    first, *rest = [jnp.asarray(a) for a in arrays]
    wanted = expected(name, *arrays)

    def step(total, _):
        return total + call(name, first, *rest), None

    total, _ = jax.jit(lambda: jax.lax.scan(step, jnp.zeros(wanted.shape), None, length=3))()
    np.testing.assert_allclose(total, 3 * wanted, rtol=1e-5, atol=1e-5)
    remat = jax.grad(jax.checkpoint(squares(name)))
    for again in (remat, jax.jit(remat)):
        wanted_grad = gradients(name, *arrays)[0]
        np.testing.assert_allclose(again(first, *rest), wanted_grad, rtol=1e-4, atol=1e-4)
    donating = jax.jit(lambda *t: (call(name, *t), t[0] + 1), donate_argnums=0)
    found, moved = donating(jnp.array(arrays[0]), *rest)
    np.testing.assert_allclose(found, wanted, **CLOSE)
    np.testing.assert_allclose(moved, arrays[0] + 1, **CLOSE)


@names
def test_exported_program_runs_anywhere(name):
    """Symbolic batch and static shapes, forward and gradient: no call of ours is left in it."""
    op = OPS[CALLS[name][0]]
    arrays = arrays_of(name)
    (batch,) = export.symbolic_shape("batch")
    symbolic = [
        jax.ShapeDtypeStruct(
            (batch, *a.shape[1:]) if n.startswith(("b", "...")) else a.shape, a.dtype
        )
        for a, n in zip(arrays, op.input_axes, strict=True)
    ]
    for function in (lambda *t: (call(name, *t),), gradient(name)):
        wanted = jax.jit(function)(*arrays)  # compiled here, with the kernel
        for specs in (symbolic, arrays):
            exported = export.export(jax.jit(function))(*specs)
            assert "@mlayers" not in exported.mlir_module()
            check(export.deserialize(exported.serialize()).call(*arrays), wanted)


@names
def test_threads_at_once(name):
    tensors = [jnp.asarray(a) for a in arrays_of(name)]
    wanted = gradients(name, *arrays_of(name))
    function = jax.jit(gradient(name))
    wrong = []

    def work():
        for _ in range(50):
            for one, other in zip(function(*tensors), wanted, strict=True):
                if not np.allclose(one, other, **CLOSE):
                    wrong.append(name)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_native_error_has_the_words_of_the_front_door():
    """A call that goes round the front door, and so past its checks."""
    from mlayers.bridges.jax import TARGET

    left, right = jnp.ones((4, 6)), jnp.ones((5, 9))
    result = jax.ShapeDtypeStruct((4, 18), "float32")
    attributes = {"op": "ffm", "ints": np.array([3, 0]), "floats": np.array([], "float64")}

    def around(*arrays, **changes):
        return jax.ffi.ffi_call(TARGET, [result])(*arrays, **{**attributes, **changes})

    with pytest.raises(ValueError, match="batch size") as words:
        mlayers.ffm(left, right, 3)
    with pytest.raises(RuntimeError) as caught:
        jax.block_until_ready(around(left, right))
    assert str(words.value) in str(caught.value)
    with pytest.raises(RuntimeError, match="there is no kernel named 'fmm'"):
        jax.block_until_ready(around(left, left, op="fmm"))
    with pytest.raises(RuntimeError, match="a result of another dtype or shape"):
        jax.block_until_ready(around(left, left))  # 12 columns, not 18


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_take_the_kernel(dtype):
    tensors = [jnp.ones((2, 4), dtype)] * 2
    assert targets(lambda *t: mlayers.ffm(*t, 2), *tensors) == {"mlayers"}
