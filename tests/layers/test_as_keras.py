# SPDX-License-Identifier: Apache-2.0
"""What Keras' own layers take, ours take too."""

import functools
import os

import keras
import numpy as np
import pytest

from mlayers.layers import MLP, Dense, GroupInt, LHUCTower
from support.frameworks import to_numpy

X = np.random.default_rng(0).integers(0, 2, (4, 6))
LAYERS = {
    "dense": functools.partial(Dense, 3),
    "normed": functools.partial(Dense, 3, allow_kernel_norm=True),
    "mlp": functools.partial(MLP, [4, 3]),
    "mlp_with_batch_norm": functools.partial(MLP, [4, 3], enable_batch_normalization=True),
    "tower": functools.partial(LHUCTower, [4, 3]),
    "tower_gated_on_the_input": functools.partial(LHUCTower, [4, 3], gate_on="input"),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
torch_alone = pytest.mark.skipif(
    os.environ.get("KERAS_BACKEND") != "torch", reason="a transformation of torch"
)


@every_layer
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_integers(make, dtype):
    layer = make()
    expected = layer(X.astype("float32"))
    found = layer(keras.ops.convert_to_tensor(X, dtype=dtype))
    np.testing.assert_allclose(to_numpy(found), to_numpy(expected), rtol=1e-5, atol=1e-6)
    given = keras.Input((6,), dtype=dtype)
    predicted = keras.Model(given, layer(given)).predict(X.astype(dtype), verbose=0)
    np.testing.assert_allclose(predicted, to_numpy(expected), rtol=1e-5, atol=1e-6)


@every_layer
def test_a_map_of_dtype_policies(make):
    policies = keras.dtype_policies.DTypePolicyMap(default_policy="mixed_bfloat16")
    layer = make(dtype=policies)
    found = layer(X.astype("float32"))
    assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
    assert {variable.dtype for variable in layer.variables} == {"float32"}


class Full(keras.initializers.Initializer):
    """As users write them: `get_config` is left to Keras, where it is empty."""

    def __init__(self, value):
        self.value = value

    def __call__(self, shape, dtype=None):
        return keras.ops.full(shape, self.value, dtype=dtype)


def full(value, shape, dtype=None):
    return keras.ops.full(shape, value, dtype=dtype)


@pytest.mark.parametrize("initializer", [Full(5), functools.partial(full, 5)], ids=["class", "fn"])
@pytest.mark.parametrize("many", [False, True])
def test_initializers_of_ones_own(initializer, many):
    mlp = MLP([4, 3], initializers=[initializer] * 2 if many else initializer)
    mlp.build((None, 6))
    for layer in mlp.get_layer(0), mlp.get_layer(-1):
        np.testing.assert_array_equal(to_numpy(layer.kernel.value), 5)


@pytest.mark.parametrize("int_type", ["multiply", "dot"])
def test_legacy_h5(tmp_path, int_type):
    fields = [keras.Input((4,)) for _ in range(3)]
    model = keras.Model(fields, MLP([1])(GroupInt(int_type)((fields[:1], fields[1:]))))
    model.save(tmp_path / "model.h5")
    again = keras.saving.load_model(tmp_path / "model.h5", compile=False)
    x = [np.full((2, 4), n, "float32") for n in (1, 2, 3)]
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


@torch_alone
@every_layer
def test_autocast(make):
    import torch

    layer, x = make(), torch.as_tensor(X, dtype=torch.float32)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


@torch_alone
@pytest.mark.parametrize("name", [name for name in LAYERS if "batch_norm" not in name])
def test_mapped_over_one_weight_alone(name):
    """Keras' batch norm itself cannot be."""
    import torch

    layer = LAYERS[name]()
    layer.build((None, 6))
    x = torch.as_tensor(X, dtype=torch.float32)
    weights = [variable.value for variable in layer.trainable_variables]
    others = [variable.value for variable in layer.non_trainable_variables]
    for position, weight in enumerate(weights):
        stack = torch.stack([weight.detach(), weight.detach() + 1])

        def call(one, at=position):
            given = [*weights[:at], one, *weights[at + 1 :]]
            return layer.stateless_call(given, others, x)[0]

        found = torch.vmap(call)(stack)
        torch.testing.assert_close(found, torch.stack([*map(call, stack)]))
        assert not torch.equal(found[0], found[1])
