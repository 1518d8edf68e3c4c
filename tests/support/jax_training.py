# SPDX-License-Identifier: Apache-2.0
"""Run as a program: trains on one device and on four, by keras.distribution. Prints JSON.

XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m support.jax_training
"""

import json
import re

import jax
import keras

from support.train_steps import batches, largest_error, make_model, make_optimizer, weights_of


def tower_layouts(mesh):
    """How to split a tower of three layers over the mesh axis "model"; see the README.

    A pair of layers is split so that only their sum has to be exchanged: the first by its units,
    and with them all that there is one of for each unit, the second by its inputs. What is not
    named, such as the last layer and the small ones in the gates, every device has whole. So it has
    the batch norms: where their weights were split, XLA gathered kernels and hidden layers.
    """
    layouts = keras.distribution.LayoutMap(mesh)
    layouts["lhuc_tower/layer_1/dense/kernel"] = (None, "model")
    layouts["lhuc_tower/layer_1/lhuc/dense_1/kernel"] = (None, "model")  # the gate's last layer
    layouts["lhuc_tower/layer_1/(dense|lhuc/dense_1)/(bias|trainable_kernel_norm)"] = ("model",)
    layouts["lhuc_tower/layer_2/dense/kernel"] = ("model", None)
    return layouts


def unpaired_layouts(mesh):
    """Both layers split by their units: what goes from one to the other has to be gathered."""
    layouts = tower_layouts(mesh)
    del layouts["lhuc_tower/layer_2/dense/kernel"]
    layouts["lhuc_tower/layer_2/dense/kernel"] = (None, "model")
    return layouts


def distributions():
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"])
    options = {"auto_shard_dataset": False}
    return {
        "one": None,
        "data": keras.distribution.DataParallel(**options),
        "model": keras.distribution.ModelParallel(
            layout_map=tower_layouts(mesh), batch_dim_name="batch", **options
        ),
        "unpaired": keras.distribution.ModelParallel(
            layout_map=unpaired_layouts(mesh), batch_dim_name="batch", **options
        ),
    }


def program_of(model, distribution):
    """The train step of a model that has been trained, compiled as Keras compiles it."""
    x, y = next(batches())
    layouts = [distribution.get_data_layout(a.shape).backend_layout for a in (*x, y)]
    *x, y = map(jax.device_put, [*x, y], layouts)
    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )
    step = jax.jit(model.train_step, out_shardings=(None, model._get_state_sharding_spec()))
    return step.lower(state, (x, y)).compile().as_text()


def look(text):
    """What the program calls, and the shapes of what the devices exchange."""
    exchanged = {}
    for kind in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        lines = re.findall(rf"= (.*?) {kind}(?:-start)?\(", text)
        exchanged[kind] = [
            [int(size) for size in shape.split(",") if size]
            for line in lines
            for shape in re.findall(r"\w+\[([\d,]*)\]", line)
        ]
    calls = re.findall(r'custom_call_target="([^"]*)"', text)
    return {"calls": sorted(calls), "exchanged": exchanged}


def train(distribution, batch_norm):
    keras.distribution.set_distribution(distribution)
    model = make_model(batch_norm)
    model.compile(make_optimizer(), "mse", jit_compile=True)
    losses = [float(model.train_on_batch(x, y, return_dict=True)["loss"]) for x, y in batches()]
    if distribution is None:
        return {"losses": losses}, weights_of(model)
    layouts = {v.path: list(v.value.sharding.spec) for v in model.weights}
    looked = {"losses": losses, "layouts": layouts, **look(program_of(model, distribution))}
    return looked, weights_of(model)


def main():
    seen = {}
    for batch_norm in ("", " with batch norm"):
        expected = {}
        for name, distribution in distributions().items():
            if batch_norm and name == "unpaired":
                continue
            looked, weights = train(distribution, bool(batch_norm))
            expected = expected or weights
            looked["error"] = largest_error(weights, expected)
            seen[name + batch_norm] = looked
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
