# SPDX-License-Identifier: Apache-2.0
"""LHUCTower beside the same tower as a Keras user writes it, trained and served by Keras.

Both start from the same weights and must predict the same and lose the same while they train, or
nothing is timed. A row is timed in several rounds, in each of which the two take turns; its times
and its ratio are the medians over the rounds, and `ratio_low` and `ratio_high` are the extremes.
What is left to gain is seen beside a floor. Of a training step: the tower of stock layers with
neither norm nor sigmoid, of which products, biases, relus, loss and optimizer are left; it has the
same variables, and its columns' lengths scale the biases, so that they are trained. Of a folded
prediction: the tower without norm, since that is what folding is to leave. In eager torch ours may
be below either, because our layers call one another without Keras' front door. `ratio_floor` is the
ratio that the floor would reach. Of a training step, its matrix products alone are timed too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import keras
import numpy as np
from keras import ops

from mlayers.bench.frameworks import FRAMEWORKS
from mlayers.bench.timing import interleave
from mlayers.layers import LHUCTower, fold_weight_norm

OUTPUT_DIMS = (512, 256, 128, 1)
GATE_DIMS = (64,)
INPUT_DIM, GATE_INPUT_DIM = 512, 128
TRAIN_BATCH, PREDICT_BATCH = 1024, 64
ROUNDS = 5
# What `compile(jit_compile=...)` is given: Keras' choice, by which it jits JAX, makes a graph with
# TensorFlow and runs torch eagerly; and for TensorFlow, that graph compiled by XLA.
TRAINING = {"training step": "auto", "training step, XLA": True}


def rows(framework_name: str, seconds: float, framework: Any = None) -> list[dict[str, Any]]:
    """Times a training step and a prediction with folded weights, on Keras' active backend.

    Both end with numbers in Python, so that on a GPU too they have been computed.

    Args:
        framework_name: jax, tensorflow or torch; it must be the active backend.
        seconds: how long to spend on a row.
        framework: how it is compiled and waited for; by default as on a CPU.

    Returns:
        One dict a row: `op`, `shape`, `direction`, `ours_us`, `stock_us`, `floor_us`, `ratio`
        (stock over ours), `ratio_low`, `ratio_high`, `ratio_floor` (stock over floor); for a
        training step also `products_us`.

    Raises:
        ValueError: Keras runs on another backend.
        AssertionError: the two towers do not compute the same.
    """
    if framework_name != keras.backend.backend():
        raise ValueError(
            f"bench.tower.rows: 'framework_name' must be Keras' backend, "
            f"{keras.backend.backend()}. Received: {framework_name!r}"
        )
    framework = framework or FRAMEWORKS[framework_name]()
    found = [
        _training_row(framework, direction, jit_compile, seconds)
        for direction, jit_compile in TRAINING.items()
        if jit_compile == "auto" or framework_name == "tensorflow"
    ]
    return [*found, _predict_row(seconds)]


class StockDense(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """A dense layer whose lengths scale `"kernel"`, normalised at each call, `"bias"`, or None."""

    def __init__(
        self,
        units: int,
        activation: Callable[[Any], Any] | None = None,
        scaled: str | None = "kernel",
    ) -> None:
        super().__init__()
        self.units = units
        self.activation = activation
        self.scaled = scaled

    def build(self, input_shape: Any) -> None:
        """Makes the weights."""
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units))
        if self.scaled:
            self.norm = self.add_weight(shape=(self.units,))
        self.bias = self.add_weight(shape=(self.units,))

    def call(self, inputs: Any) -> Any:
        """Computes `activation(inputs @ kernel + bias)`."""
        kernel_io, bias_o = self.kernel, self.bias
        if self.scaled == "kernel":
            squares_o = ops.sum(ops.square(self.kernel), axis=0)
            kernel_io = kernel_io * (self.norm * ops.rsqrt(ops.maximum(squares_o, 1e-6)))
        elif self.scaled == "bias":
            bias_o = bias_o * self.norm
        outputs = ops.matmul(inputs, kernel_io) + bias_o
        return outputs if self.activation is None else self.activation(outputs)


class StockTower(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """The tower of such layers; without `sigmoid`, their logits are the gates."""

    def __init__(self, scaled: str | None = "kernel", sigmoid: bool = True) -> None:
        super().__init__()
        self.sigmoid = sigmoid
        last = len(OUTPUT_DIMS) - 1
        self.layers = [
            StockDense(dim, ops.relu if i < last else None, scaled)
            for i, dim in enumerate(OUTPUT_DIMS)
        ]
        self.gates = [
            [
                *(StockDense(width, ops.relu, scaled) for width in GATE_DIMS),
                StockDense(dim, scaled=scaled),
            ]
            for dim in OUTPUT_DIMS
        ]

    def call(self, inputs: Any) -> Any:
        """Runs the layers, each scaled by its gate."""
        hidden, gate_input = inputs
        for layer, gate in zip(self.layers, self.gates, strict=True):
            logits = gate_input
            for gate_layer in gate:
                logits = gate_layer(logits)
            hidden = layer(hidden) * (2 * ops.sigmoid(logits) if self.sigmoid else logits)
        return hidden


def _training_row(
    framework: Any, direction: str, jit_compile: Any, seconds: float
) -> dict[str, Any]:
    ours, stock, floor = _models(jit_compile, StockTower("bias", sigmoid=False))
    inputs, labels = _data(TRAIN_BATCH)
    losses = [
        [float(model.train_on_batch(inputs, labels)) for _ in range(3)] for model in (ours, stock)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    # From here on the weights stay as they are: where units die, their momenta shrink to denormal
    # numbers, which an Intel core takes many times as long for, and torch does not flush to zero.
    for model in (ours, stock, floor):
        model.optimizer.learning_rate = 0.0
    calls = {
        "ours": lambda: ours.train_on_batch(inputs, labels),
        "stock": lambda: stock.train_on_batch(inputs, labels),
        "floor": lambda: floor.train_on_batch(inputs, labels),
        "products": _step_products(framework),
    }
    return _row(direction, TRAIN_BATCH, calls, seconds)


def _step_products(framework: Any) -> Callable[[], Any]:
    """The matrix products of a training step: outputs, gradients of kernels, of hidden inputs."""
    hidden = [INPUT_DIM, *OUTPUT_DIMS]
    layers = [(*dims, dims[0] != INPUT_DIM) for dims in zip(hidden, OUTPUT_DIMS, strict=False)]
    gates = [GATE_INPUT_DIM, *GATE_DIMS]
    for dim in OUTPUT_DIMS:
        widths = [*gates, dim]
        layers += [(i, o, n > 0) for n, (i, o) in enumerate(pairwise(widths))]
    ones = [
        (np.ones((TRAIN_BATCH, i), "f4"), np.ones((i, o), "f4"), np.ones((TRAIN_BATCH, o), "f4"))
        for i, o, _ in layers
    ]
    tensors = [[ops.convert_to_tensor(array) for array in arrays] for arrays in ones]

    def products(tensors: Any) -> list[Any]:
        found = []
        for (x, kernel, grad), (_, _, is_hidden) in zip(tensors, layers, strict=True):
            found += [ops.matmul(x, kernel), ops.matmul(ops.transpose(x), grad)]
            if is_hidden:
                found.append(ops.matmul(grad, ops.transpose(kernel)))
        return found

    # As Keras runs the step: torch eagerly.
    run = (
        products if framework.runs_eagerly else framework.compile(products, framework.compilers[0])
    )
    return lambda: framework.wait(run(tensors))


def _predict_row(seconds: float) -> dict[str, Any]:
    ours, stock, floor = _models("auto", StockTower(None))
    folded = fold_weight_norm(ours)
    inputs, _ = _data(PREDICT_BATCH)
    predictions = [model.predict_on_batch(inputs) for model in (folded, stock)]
    np.testing.assert_allclose(predictions[0], predictions[1], rtol=1e-4, atol=1e-5)
    calls = {
        "ours": lambda: folded.predict_on_batch(inputs),
        "stock": lambda: stock.predict_on_batch(inputs),
        "floor": lambda: floor.predict_on_batch(inputs),
    }
    return _row("predict folded", PREDICT_BATCH, calls, seconds)


def _row(direction: str, batch: int, calls: Any, seconds: float) -> dict[str, Any]:
    found = [interleave(calls, seconds / ROUNDS) for _ in range(ROUNDS)]
    rounds = [{name: timing.median for name, timing in times.items()} for times in found]
    ratios = [times["stock"] / times["ours"] for times in rounds]
    return {
        "op": "LHUCTower",
        "shape": (batch, INPUT_DIM, *OUTPUT_DIMS),
        "direction": direction,
        **{f"{name}_us": float(np.median([times[name] for times in rounds])) for name in calls},
        "ratio": float(np.median(ratios)),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "ratio_floor": float(np.median([times["stock"] / times["floor"] for times in rounds])),
    }


def _models(jit_compile: Any, floor: StockTower) -> tuple[Any, Any, Any]:
    """The two models with equal weights and their floor, compiled to train."""
    tower, stock_tower = LHUCTower(OUTPUT_DIMS, lhuc_output_dims=[*GATE_DIMS]), StockTower()
    models = []
    for layer in (tower, stock_tower, floor):
        inputs = (keras.Input((INPUT_DIM,)), keras.Input((GATE_INPUT_DIM,)))
        model = keras.Model(inputs, layer(inputs))
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=jit_compile)
        models.append(model)
    for source, target in zip(_weights(tower), _weights(stock_tower), strict=True):
        target.assign(keras.ops.convert_to_numpy(source).copy())
    return models[0], models[1], models[2]


def _weights(tower: Any) -> list[Any]:
    """Kernel, length and bias of each layer, then of each gate's."""
    if isinstance(tower, StockTower):
        layers = [*tower.layers, *(layer for gate in tower.gates for layer in gate)]
        return [v for layer in layers for v in (layer.kernel, layer.norm, layer.bias)]
    named = {variable.path.removeprefix(f"{tower.path}/"): variable for variable in tower.variables}
    blocks = [f"layer_{i + 1}" for i in range(len(OUTPUT_DIMS))]
    paths = [f"{block}/dense" for block in blocks]
    paths += [f"{block}/lhuc/dense_{i}" for block in blocks for i in range(len(GATE_DIMS) + 1)]
    names = ("kernel", "trainable_kernel_norm", "bias")
    return [named[f"{path}/{name}"] for path in paths for name in names]


def _data(batch: int) -> tuple[list[Any], Any]:
    generator = np.random.default_rng(0)
    inputs = [generator.standard_normal((batch, n), "float32") for n in (INPUT_DIM, GATE_INPUT_DIM)]
    labels = (generator.random((batch, 1)) < 0.5).astype("float32")
    return [ops.convert_to_tensor(x) for x in inputs], ops.convert_to_tensor(labels)
