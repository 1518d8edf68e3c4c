# SPDX-License-Identifier: Apache-2.0
"""Weight norm by the op and by formula, and children called without a front door."""

import keras
import numpy as np
import pytest

from mlayers.layers import MLP, Dense, LHUCTower, _weight_norm
from mlayers.layers._weight_norm import _output_is_smaller, normed_product
from support.check_layer import shapes_of, tensors_of
from support.check_model import mask_passes_through, shake_weights
from support.frameworks import BACKEND, float64_allowed, to_numpy, value_and_grads

RNG = np.random.default_rng(5)
WIDTH, UNITS = 7, 3
SHAPES = {
    "few_rows": (4, WIDTH),
    "many_rows": (9, WIDTH),
    "rank3": (2, 5, WIDTH),
    "row": (1, WIDTH),
}
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def normalised_kernel_product(inputs, kernel, length):
    """The formula in its plainest form: a normalised kernel, then the product."""
    squares = keras.ops.sum(kernel * kernel, axis=0)
    least = keras.ops.full_like(squares, 1e-6)  # a plain 1e-6 is torch's in float32
    scale = keras.ops.rsqrt(keras.ops.where(squares >= 1e-6, squares, least))
    return inputs @ (kernel * (scale if length is None else scale * length))


def arrays(shape, dtype, *, zero_column=False):
    inputs, kernel = RNG.normal(size=shape), RNG.normal(size=(WIDTH, UNITS))
    if zero_column:
        kernel[:, 1] = 0
        kernel[:, 2] *= 1e-5  # below the smallest norm, above zero
    return [a.astype(dtype) for a in (inputs, kernel, RNG.uniform(0.5, 2, UNITS))]


@pytest.mark.parametrize("by", ["op", "formula"])
@pytest.mark.parametrize("zero_column", [False, True])
@pytest.mark.parametrize("with_length", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients(monkeypatch, shape, dtype, with_length, zero_column, by):
    monkeypatch.setattr(_weight_norm, "_takes_the_op", lambda: by == "op")
    with float64_allowed():
        tensors = arrays(shape, dtype, zero_column=zero_column)[: 2 + with_length]
        upstream = RNG.normal(size=(*shape[:-1], UNITS)).astype(dtype)
        found, found_grads = value_and_grads(
            lambda x, k, g=None: normed_product(x, k, g, dtype), tensors, upstream
        )
        expected, expected_grads = value_and_grads(
            lambda x, k, g=None: normalised_kernel_product(x, k, g), tensors, upstream
        )
    tolerance = TOLERANCE[dtype]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    for one, other in zip(found_grads, expected_grads, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * abs(other).max())


def test_the_shapes_here_are_on_both_sides():
    kernel = keras.ops.ones((WIDTH, UNITS))
    sides = {
        name: _output_is_smaller(keras.ops.ones(shape), kernel, "float32")
        for name, shape in SHAPES.items()
    }
    assert sides == {"few_rows": True, "many_rows": False, "rank3": False, "row": True}
    unknown = keras.KerasTensor((None, WIDTH))
    assert not _output_is_smaller(unknown, kernel, "float32")
    assert not _output_is_smaller(keras.ops.ones((1, WIDTH)), kernel, "float16")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("rows", [2, 20])
def test_mixed_precision_normalises_in_the_stored_dtype(policy, rows):
    layer = Dense(UNITS, allow_kernel_norm=True, use_bias=False, dtype=policy)
    layer.build((None, WIDTH))
    kernel = RNG.normal(size=(WIDTH, UNITS)).astype("float32") * 1e6  # beyond float16
    layer.set_weights([kernel])
    inputs = tensors_of(RNG.normal(size=(rows, WIDTH)).astype("float32"), layer.compute_dtype)
    in_use = tensors_of(kernel / np.sqrt((kernel**2).sum(0)), layer.compute_dtype)
    found, expected = (keras.ops.cast(y, "float32") for y in (layer(inputs), inputs @ in_use))
    np.testing.assert_allclose(to_numpy(found), to_numpy(expected), rtol=2e-2, atol=2e-2)


class Squared(keras.layers.Layer):
    """An activation of a user's own, which tells whether it was called as a layer."""

    def call(self, inputs, training=None):
        return inputs * inputs if training else inputs


@pytest.mark.parametrize(
    "make",
    [
        lambda a: MLP([5, 3], activations=[a, None]),
        lambda a: LHUCTower([5, 3], activations=[a, None]),
    ],
    ids=["mlp", "tower"],
)
def test_an_activations_loss_and_training_argument_still_reach_it(make):
    x = RNG.normal(size=(4, WIDTH)).astype("float32")
    layer = make(keras.layers.ReLU(activity_regularizer="l2"))
    layer(tensors_of(x))
    assert len(layer.losses) == 1
    assert float(keras.ops.convert_to_numpy(layer.losses[0])) > 0

    layer = make(Squared())
    layer.build(shapes_of(x))
    shake_weights(layer)
    model = keras.Sequential([layer])
    inference, training = (to_numpy(model(tensors_of(x), training=t)) for t in (False, True))
    assert not np.allclose(inference, training)


def test_regularizers_are_counted_once_each():
    tower = LHUCTower([5, 3], lhuc_output_dims=[4], kernel_regularizer="l2")
    x = tensors_of(RNG.normal(size=(4, WIDTH)).astype("float32"))
    tower(x)
    tower(x)
    assert len(tower.losses) == 2 + 4


@pytest.mark.parametrize("cls", [MLP, LHUCTower])
def test_a_mask_reaches_the_batch_norms_inside(cls):
    inputs = RNG.normal(size=(4, 3, WIDTH)).astype("float32")
    mask_passes_through(lambda: cls([5, 3], activations="tanh"), inputs)
    inputs[:, 1:] = 0  # masked: as if it were not there
    layers = [cls([5, 3], enable_batch_normalization=True) for _ in range(2)]
    for layer, x in zip(layers, (inputs, inputs[:, :1]), strict=True):
        layer.build(x.shape)
        layer.set_weights(layers[0].get_weights())
    for layer, x in zip(layers, (inputs, inputs[:, :1]), strict=True):
        layer(keras.layers.Masking()(tensors_of(x)), training=True)
    found, expected = ([to_numpy(v.value) for v in x.non_trainable_variables] for x in layers)
    assert len(found) >= 4
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", [MLP, LHUCTower])
def test_call_refuses_another_width_or_too_low_a_rank(cls):
    layer = cls([5, 3])
    layer.build((None, WIDTH))
    for shape in ((4, WIDTH - 1), (WIDTH,)):
        with pytest.raises(ValueError, match=r"axis -1|axes|ndim"):
            layer(tensors_of(np.zeros(shape, "float32")))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.skipif(BACKEND != "torch", reason="torch.export")
def test_torch_exports_any_number_of_rows(strict):
    import torch

    model = keras.Sequential([keras.Input((WIDTH,)), MLP([5, 3])])
    sizes = (({0: torch.export.Dim("batch", min=1, max=100)},),)
    exported = torch.export.export(
        model, (torch.ones(4, WIDTH),), dynamic_shapes=sizes, strict=strict
    )
    for rows in (2, 20):
        x = torch.ones(rows, WIDTH)
        np.testing.assert_allclose(
            to_numpy(exported.module()(x)), to_numpy(model(x)), rtol=1e-5, atol=1e-6
        )
