# SPDX-License-Identifier: Apache-2.0
"""One layer of an LHUCTower: `layer_1` in the weight path `lhuc_tower/layer_1/dense/kernel`."""

import math
from typing import Any

import keras

from mlayers import ops
from mlayers.layers._layer import Layer, call_child
from mlayers.layers.dense import Dense
from mlayers.layers.mlp import MLP


class LHUCBlock(Layer):
    """`activation(batch_norm(dense(hidden))) * gate`, or with `hidden * gate` for `hidden` instead.

    Args:
        dense: the dense layer.
        batch_norm: the batch norm behind it, or `None`.
        activation: the activation behind both, or `None`.
        gate: as wide as what it multiplies; or `None`, which is no gate.
        gate_on: what it multiplies: `"output"`, or `"input"` of the dense layer.
    """

    def __init__(
        self,
        dense: Dense,
        batch_norm: Any,
        activation: Any,
        gate: "LHUCGate | None",
        gate_on: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dense = dense
        self.batch_norm = batch_norm
        self.activation = activation
        self.gate = gate
        self.gate_on = gate_on

    def build(self, hidden_shape: Any, gate_input_shape: Any) -> None:
        shape = self.compute_output_shape(hidden_shape, gate_input_shape)
        self.dense.build(hidden_shape)
        if self.batch_norm is not None:
            self.batch_norm.build(shape)
        if self.activation is not None:
            self.activation.build(shape)
        if self.gate is not None:
            self.gate.build(gate_input_shape)
        self.built = True

    def call(self, hidden: Any, gate_input: Any, training: bool | None = None) -> Any:
        if self.gate is not None and self.gate_on == "input":
            hidden = self.gate.multiply(hidden, gate_input, training)
        hidden = call_child(self.dense, hidden)
        if self.batch_norm is not None:
            hidden = self.batch_norm(hidden, training=training)
        hidden = self._activate(self.activation, hidden)
        if self.gate is not None and self.gate_on == "output":
            hidden = self.gate.multiply(hidden, gate_input, training)
        return hidden

    def compute_output_shape(
        self, hidden_shape: Any, gate_input_shape: Any
    ) -> tuple[int | None, ...]:
        return self.dense.compute_output_shape(hidden_shape)


class LHUCGate(MLP):
    """An MLP that ends in the logits of a gate, which is `scale * sigmoid(logits)`.

    Args:
        output_dims: width of each layer.
        scale: the largest value of the gate.
        dropout: rate of what goes into the last layer.
        identity_start: whether the gate starts at 1, whatever it sees.
        **kwargs: the other arguments of `MLP`.
    """

    def __init__(
        self, output_dims: Any, scale: float, dropout: float, identity_start: Any, **kwargs: Any
    ) -> None:
        self.scale = scale
        self.dropout = dropout
        self.identity_start = identity_start
        super().__init__(output_dims, **kwargs)  # which makes the layers

    def values(self, gate_input: Any) -> Any:
        """What the gate multiplies by, in inference."""
        return self.scale * keras.ops.sigmoid(self(gate_input, training=False))

    def multiply(self, hidden: Any, gate_input: Any, training: bool | None) -> Any:
        """`hidden * scale * sigmoid(logits)`."""
        logits = call_child(self, gate_input, training=training)
        if hidden.dtype != logits.dtype:  # torch.autocast has products in a half type
            hidden = keras.ops.cast(hidden, self.compute_dtype)
        # On JAX as a formula, which XLA fuses with its neighbours. A training step of a tower of
        # stock layers took 1.01 times as long as one with the formula and 0.97 times as long as one
        # with the op; on TensorFlow 0.99 and 1.03, on torch 1.03 and 1.04 (medians of 12 rounds).
        if keras.backend.backend() == "jax" and self.compute_dtype in ("float32", "float64"):
            return hidden * (self.scale * keras.ops.sigmoid(logits))
        if self.scale != 2:  # before the op: compilers fuse it with the activation that made hidden
            hidden = hidden * (self.scale / 2)
        return ops.lhuc_gate(hidden, logits)  # which computes half types in float32

    def _make_stack(self) -> list[Any]:
        stack = super()._make_stack()
        if self.dropout:
            dropout = keras.layers.Dropout(self.dropout, **self._child_options("dropout"))
            stack.insert(len(stack) - 1, dropout)
        return stack

    def _make_dense(self, name: str, index: int, cls: type[Dense] = Dense, **options: Any) -> Dense:
        if self.identity_start and index == self.n_layers - 1:
            # scale * sigmoid(-log(scale - 1)) is 1; exactly so for scale 2, where it is 2 / 2.
            bias = keras.initializers.Constant(-math.log(self.scale - 1))
            cls, options = _DenseOfNothing, {"bias_initializer": bias, **options}
            if not self.use_weight_norm:
                options["kernel_initializer"] = "zeros"
        return super()._make_dense(name, index, cls, **options)


class _DenseOfNothing(Dense):
    """Starts with a product of 0, and does not stay there.

    With weight norm the columns of the kernel start with length 0 but in some direction: kernel
    columns of zeros would have none, and neither they nor their lengths would get a gradient.
    """

    def _initial_kernel_norm(self, shape: Any, dtype: Any = None) -> Any:
        return keras.ops.zeros(shape, dtype)
