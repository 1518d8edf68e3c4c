# SPDX-License-Identifier: Apache-2.0
"""Two models that train at once, in two threads, learn what each learns alone."""

import threading

import keras
import numpy as np
import pytest

from mlayers import layers

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((2048, 32)).astype("float32")
Y = (X[:, :1] * X[:, 1:2] > 0).astype("float32")


def make_model(units: int, jit: bool) -> keras.Model:
    """Crosses of many fields: large enough that a call is worth several threads."""
    inputs = keras.Input((32,))
    fields = keras.ops.split(inputs, 4, axis=-1)
    crossed = layers.GroupInt()((fields, fields))
    outputs = layers.LHUCTower([units, 1], [8, 8])([crossed, inputs])
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse", jit_compile=jit)
    return model


def losses(model: keras.Model) -> list[float]:
    return model.fit(X, Y, batch_size=1024, epochs=3, shuffle=False, verbose=0).history["loss"]


@pytest.mark.parametrize("jit", [False, True])
def test_two_models_in_two_threads(jit):
    models = [make_model(units, jit) for units in (16, 24)]
    start = [model.get_weights() for model in models]
    alone = [losses(model) for model in models]  # compiles too
    for model, weights in zip(models, start, strict=True):
        model.set_weights(weights)
    together = [None, None]

    def work(index):
        together[index] = losses(models[index])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert alone[0][-1] < alone[0][0]
