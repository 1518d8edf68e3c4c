# SPDX-License-Identifier: Apache-2.0
"""Run as a program: ops on a batch that is split over four devices. Prints what it saw as JSON.

XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m support.jax_devices
"""

import json
import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import mlayers
from mlayers.op import OPS
from support.bridge_calls import CALLS, arrays_of, call, gradients

MESH = Mesh(np.array(jax.devices()), ("batch",))


def split(name):
    """The inputs of a call, those with a batch split over it."""
    axes = OPS[CALLS[name][0]].input_axes
    return [
        jax.device_put(a, NamedSharding(MESH, P("batch") if n.startswith(("b", "...")) else P()))
        for a, n in zip(arrays_of(name), axes, strict=True)
    ]


def look(function, tensors, expected):
    """What the compiled program holds, how results are laid out, how far they are off."""
    compiled = jax.jit(function).lower(*tensors).compile()
    text = compiled.as_text()
    results = compiled(*tensors)
    results = results if isinstance(results, tuple) else (results,)
    return {
        "targets": sorted(set(re.findall(r'custom_call_target="([^"]*)"', text))),
        "all-gathers": len(re.findall(r"all-gather[a-z-]*\(", text)),
        "all-reduces": len(re.findall(r"all-reduce[a-z-]*\(", text)),
        "specs": [list(r.sharding.spec) for r in results],
        "error": max(
            float(np.abs(r - e).max() / np.abs(e).max())
            for r, e in zip(results, expected, strict=True)
        ),
    }


def squares(name):
    return lambda *tensors: (call(name, *tensors) ** 2).sum()


def inside_shard_map(name):
    """The gradients taken on each device by itself; JAX sums that of a weight over the devices."""
    axes = OPS[CALLS[name][0]].input_axes
    specs = tuple(P("batch") if n.startswith(("b", "...")) else P() for n in axes)
    function = jax.grad(squares(name), tuple(range(len(axes))))
    return jax.shard_map(function, mesh=MESH, in_specs=specs, out_specs=specs)


def trained(distribution):
    """The losses of a model that crosses and gates, with its kernels on every device."""
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((256, 8)).astype("float32")
    y = (x[:, :1] * x[:, 1:2]).astype("float32")
    inputs = keras.Input((8,))
    crossed = mlayers.layers.GroupInt()(([inputs], [keras.layers.Dense(8)(inputs), inputs]))
    model = keras.Model(inputs, mlayers.layers.LHUCTower([8, 1])([crossed, inputs]))
    model.compile("sgd", "mse", jit_compile=True)
    return model.fit(x, y, batch_size=32, epochs=2, verbose=0, shuffle=False).history["loss"]


def main():
    seen = {}
    for name in CALLS:
        tensors = split(name)
        arrays = arrays_of(name)
        positions = tuple(range(len(arrays)))
        with mlayers.use_kernels("reference"):
            expected = (call(name, *arrays),)
        seen[f"{name} forward"] = look(lambda *t, n=name: call(n, *t), tensors, expected)
        grads = gradients(name, *arrays)
        seen[f"{name} gradient"] = look(jax.grad(squares(name), positions), tensors, grads)
        if hasattr(jax, "shard_map"):
            seen[f"{name} shard_map"] = look(inside_shard_map(name), tensors, grads)
    left = jax.device_put(jnp.ones((4, 8, 3)), NamedSharding(MESH, P(None, "batch")))
    seen["middle axis"] = look(
        lambda x: mlayers.fid_counter(x, 9.0), [left], [np.full((4, 8, 3), 2.0)]
    )
    seen["losses"] = {
        "one": trained(None),
        "four": trained(keras.distribution.DataParallel(auto_shard_dataset=False)),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
