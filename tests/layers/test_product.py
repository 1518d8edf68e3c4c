# SPDX-License-Identifier: Apache-2.0
"""The product of a dense layer, whose gradient JAX gets in another form where that is faster."""

import os

import pytest

if os.environ.get("KERAS_BACKEND") != "jax":
    pytest.skip("it is JAX's gradient", allow_module_level=True)

import jax
import jax.numpy as jnp
import keras
import numpy as np

from mlayers.layers import MLP, Dense, _product

RANDOM = np.random.default_rng(0)
INPUTS, KERNEL = (RANDOM.standard_normal(shape, "float32") for shape in ((512, 32), (32, 64)))
DIRECTION = INPUTS * 0.3, KERNEL * 0.2


@pytest.fixture
def turned(monkeypatch):
    """As where XLA has YNNPACK and the processor gains, whatever there is here."""
    monkeypatch.setattr(_product, "_xla_has_ynnpack", lambda: True)
    monkeypatch.setattr(_product, "_is_amd", lambda: True)
    with jax.default_device("cpu"):
        yield


def loss(product):
    return lambda inputs, kernel: jnp.sum(jnp.tanh(product(inputs, kernel)) ** 2)


def squares(gradient):
    return lambda *args: sum((part**2).sum() for part in gradient(*args))


def gradient(f):
    return jax.grad(f, (0, 1))


def directional(f):
    return lambda x, w: jax.jvp(f, (x, w), DIRECTION)[1]


def over_kernels(f):
    return lambda x, w: jax.vmap(gradient(f), (None, 0))(x, np.stack([w, 2 * w]))


def over_inputs(f):
    return lambda x, w: jax.jit(jax.vmap(gradient(f), (0, None)))(np.stack([x, 2 * x]), w)


TRANSFORMATIONS = {
    "value": lambda f: f,
    "gradient": gradient,
    "compiled": lambda f: jax.jit(gradient(f)),
    "of the inputs alone": lambda f: jax.grad(f, 0),
    "of the kernel alone": lambda f: jax.jit(jax.grad(f, 1)),
    "forward mode": directional,
    "of the gradient": lambda f: gradient(squares(gradient(f))),
    "forward mode of the gradient": lambda f: directional(squares(gradient(f))),
    "of forward mode": lambda f: gradient(directional(f)),
    "forward mode twice": lambda f: directional(directional(f)),
    "of a checkpoint": lambda f: gradient(jax.checkpoint(f)),
    "over many kernels": over_kernels,
    "over many inputs": over_inputs,
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_every_derivative_is_that_of_the_plain_product(name, turned):
    transformation = TRANSFORMATIONS[name]
    found = transformation(loss(_product._with_turned_gradient()))(INPUTS, KERNEL)
    expected = transformation(loss(lambda x, w: x @ w))(INPUTS, KERNEL)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def is_turned(inputs, kernel):
    """Whether the gradient for a kernel is made of inputs that were turned round in memory."""
    gradient = jax.grad(lambda x, w: _product.product(x, w).sum(), 1)
    return "optimization_barrier" in str(jax.make_jaxpr(gradient)(inputs, kernel))


def test_which_products_are_turned(turned, monkeypatch):
    def arrays(rows, input_dim, units, dtype="float32"):
        return np.ones((rows, input_dim), dtype), np.ones((input_dim, units), dtype)

    assert is_turned(*arrays(_product.LEAST_ROWS, 32, 16))
    assert is_turned(*arrays(_product.MOST_ROWS, 16, 16))
    assert not is_turned(*arrays(_product.LEAST_ROWS - 1, 32, 16))
    assert not is_turned(*arrays(_product.MOST_ROWS + 1, 16, 16))
    assert not is_turned(*arrays(512, 32, 15))
    assert not is_turned(*arrays(512, 15, 32))
    assert not is_turned(*arrays(512, 32, 32, "float16"))
    assert not is_turned(np.ones((2, 512, 32), "float32"), KERNEL)
    for condition in ("_xla_has_ynnpack", "_is_amd"):
        with monkeypatch.context() as without:
            without.setattr(_product, condition, lambda: False)
            assert not is_turned(*arrays(512, 32, 16))
    assert is_turned(*arrays(512, 32, 16))


def test_a_product_that_nobody_traces_is_plain(turned, monkeypatch):
    monkeypatch.setattr(_product, "_with_turned_gradient", None)  # would be called
    found = _product.product(keras.ops.array(INPUTS), keras.ops.array(KERNEL))
    np.testing.assert_allclose(found, INPUTS @ KERNEL, rtol=1e-5, atol=1e-5)


def test_xla_gets_the_product_that_is_promised():
    def compiled(product):
        gradient = jax.jit(jax.grad(lambda w, x: jnp.tanh(product(x, w)).sum()))
        return gradient.lower(KERNEL, INPUTS).compile().as_text()

    turned, plain = compiled(_product._with_turned_gradient()), compiled(lambda x, w: x @ w)
    over_first_axes = "lhs_contracting_dims={0}, rhs_contracting_dims={0}"
    assert over_first_axes in plain
    assert over_first_axes not in turned
    gained = turned.count("__ynn_fusion") > plain.count("__ynn_fusion")
    assert gained is _product._xla_has_ynnpack()


@pytest.mark.parametrize("normed", [False, True])
def test_dense_layers_take_it(normed, turned):
    layer = Dense(64, allow_kernel_norm=normed, kernel_norm_trainable=normed)
    layer.build(INPUTS.shape)

    def total(trainable):
        return layer.stateless_call(trainable, [], INPUTS)[0].sum()

    trainable = [variable.value for variable in layer.trainable_variables]
    assert "optimization_barrier" in str(jax.make_jaxpr(jax.grad(total))(trainable))


def test_training_is_the_same_as_that_of_keras(turned):
    mlp = MLP([32, 16, 1], use_weight_norm=False)
    stock = keras.Sequential(
        [keras.layers.Dense(n, a) for n, a in ((32, "relu"), (16, "relu"), (1, None))]
    )
    models = []
    for layer in (mlp, stock):
        inputs = keras.Input((32,))
        model = keras.Model(inputs, layer(inputs))
        model.compile(keras.optimizers.SGD(0.01), "mse")
        models.append(model)
    models[1].set_weights(models[0].get_weights())
    labels = INPUTS[:, :1]
    losses = [[float(m.train_on_batch(INPUTS, labels)) for _ in range(5)] for m in models]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0][-1] < losses[0][0]
