# SPDX-License-Identifier: Apache-2.0
"""Run as a program: trains on one device and on four, by keras.distribution. Prints JSON.

XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m support.jax_training
"""

import json
import re
from pathlib import Path

import jax
import keras

from support.train_steps import batches, largest_error, make_model, make_optimizer, weights_of

README = Path(__file__).parents[2] / "README.md"


def in_readme():
    """The README's way to split a tower over two axes of two devices each; its layouts first."""
    (snippet,) = re.findall(r"```python\n((?:(?!```).)*LayoutMap.*?)```", README.read_text(), re.S)
    names = {}
    exec(compile(snippet, str(README), "exec"), names)
    return names["layouts"], keras.distribution.distribution()


def unpaired():
    """Both layers split by their units: what goes from one to the other has to be gathered."""
    layouts, _ = in_readme()
    del layouts["tower/layer_2/dense/kernel"]
    layouts["tower/layer_2/dense/kernel"] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


def distributions():
    _, model = in_readme()
    return {
        "one": None,
        "data": keras.distribution.DataParallel(),
        "model": model,
        "unpaired": unpaired(),
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
