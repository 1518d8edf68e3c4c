# SPDX-License-Identifier: Apache-2.0
"""`keras.distribution` on four devices trains as one device does, with the kernels, and exchanges
no more than it has to. How single ops are split is tested in tests/bridges/test_jax.py.
"""

import os

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND") != "jax":
    pytest.skip("KERAS_BACKEND is not jax", allow_module_level=True)

from support import programs
from support.train_steps import BATCH, STEPS, UNITS

SPLIT = {  # what the README's layouts come to
    "tower/layer_1/dense/kernel": [None, "model"],
    "tower/layer_1/dense/bias": ["model"],
    "tower/layer_1/dense/trainable_kernel_norm": ["model"],
    "tower/layer_1/lhuc/dense_1/kernel": [None, "model"],
    "tower/layer_1/lhuc/dense_1/bias": ["model"],
    "tower/layer_1/lhuc/dense_1/trainable_kernel_norm": ["model"],
    "tower/layer_2/dense/kernel": ["model", None],
}

batch_norms = pytest.mark.parametrize("batch_norm", ["", " with batch norm"])
distributions = pytest.mark.parametrize("distribution", ["data", "model"])


@pytest.fixture(scope="module")
def seen():
    return programs.result(
        "-m",
        "support.jax_training",
        MLAYERS_KERNELS="auto",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )


@batch_norms
@distributions
def test_trains_as_one_device_does(seen, distribution, batch_norm):
    one, four = seen["one" + batch_norm], seen[distribution + batch_norm]
    np.testing.assert_allclose(four["losses"], one["losses"], rtol=1e-5)
    assert four["error"] < 1e-4
    assert len(set(one["losses"])) == STEPS


@batch_norms
@distributions
def test_kernels_are_in_the_step(seen, distribution, batch_norm):
    """Two products and their gradients; the gates are a formula on JAX."""
    assert seen[distribution + batch_norm]["calls"] == ["mlayers"] * 4


def test_layouts_are_those_of_the_map(seen):
    layouts = seen["model"]["layouts"]
    assert {path: axes for path, axes in layouts.items() if any(axes)} == SPLIT


@batch_norms
def test_data_parallel_gathers_nothing(seen, batch_norm):
    exchanged = seen["data" + batch_norm]["exchanged"]
    assert exchanged.pop("all-reduce")  # gradients, and the statistics of batch norms
    assert exchanged == {"all-gather": [], "all-to-all": [], "collective-permute": []}


def test_model_parallel_gathers_nothing(seen):
    exchanged = seen["model"]["exchanged"]
    # The one sum that a pair of layers needs: the second layer's, of the half batch of a device.
    assert [BATCH // 2, UNITS[1]] in exchanged.pop("all-reduce")
    assert exchanged == {"all-gather": [], "all-to-all": [], "collective-permute": []}


def test_model_parallel_with_batch_norm_gathers_vectors_alone(seen):
    exchanged = seen["model with batch norm"]["exchanged"]
    assert {len(shape) for shape in exchanged["all-gather"]} <= {1}
    assert exchanged["all-to-all"] == exchanged["collective-permute"] == []


def test_gathering_is_seen(seen):
    """So that the tests above can fail."""
    exchanged = seen["unpaired"]["exchanged"]
    assert [BATCH // 2, UNITS[0]] in exchanged["all-gather"]
