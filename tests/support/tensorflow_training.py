# SPDX-License-Identifier: Apache-2.0
"""Run as a program: trains on one CPU and on two logical ones. Prints JSON.

python -m support.tensorflow_training
"""

import collections
import json
import re

import keras
import tensorflow as tf

from support.train_steps import (
    BATCH,
    batches,
    largest_error,
    make_model,
    make_optimizer,
    weights_of,
)


def fit(strategy):
    """Keras' own loop; the mean squared error of each batch, once for all devices."""
    with strategy.scope():
        model = make_model(batch_norm=False)
        model.compile(make_optimizer(), "mse", jit_compile=False)
    losses = []
    for x, y in batches():
        data = tf.data.Dataset.from_tensors((tuple(x), y))
        losses += model.fit(data, shuffle=False, verbose=0).history["loss"]
    return model, losses, None


def custom(strategy):
    """A loop of one's own, as TensorFlow's guide has it."""
    with strategy.scope():
        model = make_model(batch_norm=False)
        optimizer = make_optimizer()
        optimizer.build(model.trainable_variables)

    def on_each_device(x, y):
        with tf.GradientTape() as tape:
            squares = (model(x, training=True) - y) ** 2
            loss = tf.nn.compute_average_loss(squares[:, 0], global_batch_size=BATCH)
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    @tf.function
    def step(x, y):
        parts = strategy.run(on_each_device, args=(x, y))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

    losses, graph = [], None
    for x, y in batches():
        data = tf.data.Dataset.from_tensor_slices((tuple(x), y)).batch(BATCH)
        ((x, y),) = strategy.experimental_distribute_dataset(data)
        losses.append(float(step(x, y)))
        graph = graph or step.get_concrete_function(x, y).graph.as_graph_def()
    return model, losses, graph


def look(graph):
    """How often each op is called from the graph, and on which devices."""
    kernels = {
        function.signature.name: node.attr["op"].s.decode()
        for function in graph.library.function
        for node in function.node_def
        if node.op == "MlayersCall"
    }
    calls, devices = collections.Counter(), set()
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    for node in (node for body in bodies for node in body if node.op == "StatelessCase"):
        for branch in node.attr["branches"].list.func:
            if branch.name in kernels:
                calls[kernels[branch.name]] += 1
                devices |= {*re.findall(r"CPU:\d", node.device)}
    return {"calls": calls, "devices": sorted(devices)}


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategies = {
        "one": tf.distribute.OneDeviceStrategy("CPU:0"),
        "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
    }
    seen = {}
    for loop in (fit, custom):
        expected = {}
        for name, strategy in strategies.items():
            model, losses, graph = loop(strategy)
            weights = weights_of(model)
            expected = expected or weights
            seen[f"{loop.__name__} {name}"] = {
                "replicas": strategy.num_replicas_in_sync,
                "losses": losses,
                "error": largest_error(weights, expected),
                **(look(graph) if graph else {}),
            }
    print(json.dumps(seen))


if __name__ == "__main__":
    assert keras.backend.backend() == "tensorflow"
    main()
