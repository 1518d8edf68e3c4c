# SPDX-License-Identifier: Apache-2.0
"""`tf.distribute.MirroredStrategy` on two devices trains as one device does, with the kernels."""

import os

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND") != "tensorflow":
    pytest.skip("KERAS_BACKEND is not tensorflow", allow_module_level=True)

from support import programs
from support.train_steps import STEPS


@pytest.fixture(scope="module")
def seen():
    """From a process of its own: devices can be divided only before TensorFlow uses them."""
    return programs.result("-m", "support.tensorflow_training", MLAYERS_KERNELS="auto")


@pytest.mark.parametrize("loop", ["fit", "custom"])
def test_trains_as_one_device_does(seen, loop):
    one, two = seen[f"{loop} one"], seen[f"{loop} two"]
    assert (one["replicas"], two["replicas"]) == (1, 2)
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-5)
    assert two["error"] < 1e-4
    assert len(set(one["losses"])) == STEPS


def test_kernels_are_in_the_graph(seen):
    """On each device two products, three gates and nine kernels, and their gradients."""
    forward = {"ffm": 2, "lhuc_gate": 3, "weight_norm": 9}
    expected = {**forward, **{f"{op}_grad": n for op, n in forward.items()}}
    assert seen["custom one"]["calls"] == expected
    assert seen["custom two"]["calls"] == {op: 2 * n for op, n in expected.items()}
    assert seen["custom two"]["devices"] == ["CPU:0", "CPU:1"]
