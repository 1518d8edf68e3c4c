# SPDX-License-Identifier: Apache-2.0
"""Arrays on two devices are refused, where the framework would refuse them too."""

import os

import pytest

import mlayers
from support import programs

BACKEND = os.environ.get("KERAS_BACKEND")


@pytest.mark.skipif(BACKEND != "torch", reason="torch's devices")
def test_torch_devices():
    import torch

    with pytest.raises(TypeError, match=r"must be on one device.*left='cpu', right='meta'"):
        mlayers.ffm(torch.ones(2, 2), torch.ones(2, 2, device="meta"), 1)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's devices")
def test_jax_devices():
    program = (
        "import jax, jax.numpy as jnp, mlayers\n"
        "first, second = jax.devices()\n"
        "free, here = jnp.ones((2, 2)), jax.device_put(jnp.ones((2, 2)), first)\n"
        "there = jax.device_put(jnp.ones((2, 2)), second)\n"
        "print(mlayers.ffm(free, there, 1).shape, mlayers.ffm(there, there, 1).devices())\n"
        "try:\n"
        "    mlayers.ffm(here, there, 1)\n"
        "except TypeError as error:\n"
        "    print(error)\n"
    )
    flags = "--xla_force_host_platform_device_count=2"
    moved, error = programs.output("-c", program, XLA_FLAGS=flags).splitlines()
    assert moved.startswith("(2, 4)")
    assert "id=1" in moved
    assert error.startswith("ffm: 'left' and 'right' must be on one device. Received: left=")
