# SPDX-License-Identifier: Apache-2.0
"""Monolith's way to count: an embedding of counters that plain SGD trains by fid_counter's rule."""

import keras
import numpy as np
import pytest

import mlayers
from mlayers.layers import FidCounter
from support.frameworks import to_numpy

NUM_IDS, THRESHOLD, STEP = 12, 5.0, 0.5
IDS = np.random.default_rng(8).integers(0, 7, (21, 3)).astype("int32")


@pytest.mark.parametrize(("loss", "jit_compile"), [("mse", False), ("mae", False), ("mse", True)])
def test_an_embedding_counts(loss, jit_compile):
    ids = keras.Input((3,), dtype="int32")
    counters = keras.layers.Embedding(NUM_IDS, 1, embeddings_initializer="zeros")
    counts = mlayers.fid_counter(counters(ids), THRESHOLD, step=STEP)
    model = keras.Model(ids, counts)
    model.compile(keras.optimizers.SGD(learning_rate=1.0), loss, jit_compile=jit_compile)

    # Any loss will do, and any labels: the rule takes no upstream gradient.
    model.fit(IDS, np.zeros((len(IDS), 3, 1)), batch_size=4, verbose=0)

    stored = to_numpy(counters.embeddings.value)[:, 0]
    expected = np.bincount(IDS.ravel(), minlength=NUM_IDS) * STEP
    assert 0 < (expected > THRESHOLD).sum() < (expected > 0).sum()
    # Only in its last batch does a stored counter pass the threshold.
    np.testing.assert_array_equal(np.minimum(stored, THRESHOLD), np.minimum(expected, THRESHOLD))
    assert (stored <= expected).all()

    layer = FidCounter(NUM_IDS, THRESHOLD, STEP)
    layer(IDS, training=True)
    np.testing.assert_array_equal(to_numpy(layer.counts.value), np.minimum(stored, THRESHOLD))
    # What the model predicts counts the looked-up occurrence too; the layer does not.
    found = model.predict(IDS, verbose=0)[..., 0]
    np.testing.assert_array_equal(found, np.minimum(stored[IDS] + STEP, THRESHOLD))
