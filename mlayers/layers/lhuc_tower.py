# SPDX-License-Identifier: Apache-2.0
"""A tower of dense layers whose units are scaled by gates that see other features."""

from typing import Any

import keras
from keras import ops

from mlayers import activations as activations_lib
from mlayers.layers import _checks, _gates, _options
from mlayers.layers._initializers import fresh
from mlayers.layers._layer import call_child, register
from mlayers.layers._lhuc_block import LHUCBlock, LHUCGate
from mlayers.layers._stack import DenseStack


@register
class LHUCTower(DenseStack):
    """Dense layers in a row, each multiplied by a gate: Learning Hidden Unit Contributions.

    Each layer computes `h = activation(batch_norm(dense(h))) * gate(lhuc_input)`. Its gate is an
    MLP with relu inside and `2 * sigmoid` last: from 0 to 2 for each unit, 1 to leave it as it is.

    That is Monolith's LHUC. Kuaishou's PPNet leaves the last layer ungated (`gate_last=False`);
    PEPNet gates the inputs of all layers (`gate_on="input"`). In both the gates see a prior, the
    `lhuc_input`, beside the dense input, which they do not train (`stop_gradient=True`).

    Args:
        output_dims: width of each layer.
        lhuc_output_dims: widths of the gates' layers. A list of lists gives each gate its own; the
            last of each must be the width of what it gates, or `None`, which stands for it. A list
            of integers gives all gates the same, and that width is appended. `None` and `[]` are
            gates of one layer.
        activations: `None` is relu on all layers but the last; one activation is used on all layers
            but the last; a list has one for each layer. See `mlayers.activations.get`.
        initializers: of the kernels: one for all, or a list, as in `MLP`. A gate has the
            initializer of the layer it gates, with numbers of its own.
        use_bias: whether the dense layers have a bias.
        use_weight_norm: whether to normalise the kernels, see `Dense`.
        use_learnable_weight_norm: whether to train the lengths of their columns.
        kernel_regularizer: of every kernel, as it is stored, before it is normalised.
        bias_regularizer: of every bias.
        enable_batch_normalization: whether to normalise the input, and the output of each dense
            layer but the last; in the gates too.
        batch_normalization_momentum: of the moving statistics.
        batch_normalization_renorm: whether to use batch renormalisation.
        batch_normalization_renorm_clipping: its limits, a dict with keys out of `rmin`, `rmax` and
            `dmax`.
        batch_normalization_renorm_momentum: of its statistics.
        gate_scale: the largest value of a gate, `gate_scale * sigmoid(logits)`.
        gate_on: `"output"`, or `"input"` for `activation(batch_norm(dense(h * gate(lhuc_input))))`,
            where a gate is as wide as the input of its layer.
        gate_last: whether the last layer has a gate.
        stop_gradient: whether the gates see the dense input as a constant, so that they do not
            train what is below it. Of a pair they then see both inputs, and train what is below
            `lhuc_input` alone: `concat([lhuc_input, stop_gradient(dense_input)])`.
        identity_start: whether the gates start at 1, so that the tower starts as a plain MLP. Their
            last kernels start as zeros, with weight norm as random columns of length zero. Not with
            a weight norm that is not learnable, nor, where `gate_scale` is not 2, without a bias.
        gate_dropout: rate at which training drops what goes into the last layer of a gate: its
            hidden units, or the input of a gate of one layer.
        **kwargs: each option from `use_bias` to `batch_normalization_renorm_momentum`, with `lhuc_`
            before its name, is another value for the gates alone (`lhuc_use_bias=False`); given as
            `None` it is `None` there. Then `name`, `dtype`, `trainable` and other arguments of
            `keras.layers.Layer`.

    Call arguments:
        inputs: one tensor, which feeds the tower and the gates, or a pair
            `(dense_input, lhuc_input)`.
        training: whether batch norms use the statistics of the batch, and gates drop units; where
            nobody gives it, they use the moving ones, and drop none.

    Input shape: `(batch, ..., input_dim)`, or two such shapes with the same leading axes.

    Output shape: `(batch, ..., output_dims[-1])`. A mask of `dense_input` is passed on.

    Raises:
        ValueError: an argument is out of its range, a list has a wrong length, `inputs` is a list
            that is not a pair, a `lhuc_*` argument is unknown.

    Source: Swietojanski, Li and Renals, https://arxiv.org/abs/1601.02828; Monolith,
    `native_training/layers/lhuc.py`; PEPNet, https://arxiv.org/abs/2302.01115.

    Example:
        >>> import numpy as np
        >>> tower = LHUCTower([8, 4, 1], lhuc_output_dims=[6], lhuc_use_bias=False)
        >>> dense_input, lhuc_input = np.ones((2, 5), "float32"), np.ones((2, 3), "float32")
        >>> tuple(tower((dense_input, lhuc_input)).shape)
        (2, 1)
    """

    gate_scale: float
    gate_on: str
    gate_last: bool | None
    stop_gradient: bool | None
    identity_start: bool | None
    gate_dropout: float

    _extra_params = tuple(f"lhuc_{name}" for name in _options.NAMES)

    def __init__(
        self,
        output_dims: Any,
        lhuc_output_dims: Any = None,
        activations: Any = "relu",
        initializers: Any = None,
        use_bias: bool = True,
        use_weight_norm: bool = True,
        use_learnable_weight_norm: bool = True,
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        enable_batch_normalization: bool = False,
        batch_normalization_momentum: float = 0.99,
        batch_normalization_renorm: bool = False,
        batch_normalization_renorm_clipping: dict[str, float] | None = None,
        batch_normalization_renorm_momentum: float = 0.99,
        *,
        gate_scale: float = 2.0,
        gate_on: str = "output",
        gate_last: bool = True,
        stop_gradient: bool = False,
        identity_start: bool = False,
        gate_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        options = {
            "use_bias": use_bias,
            "use_weight_norm": use_weight_norm,
            "use_learnable_weight_norm": use_learnable_weight_norm,
            "kernel_regularizer": kernel_regularizer,
            "bias_regularizer": bias_regularizer,
            "enable_batch_normalization": enable_batch_normalization,
            "batch_normalization_momentum": batch_normalization_momentum,
            "batch_normalization_renorm": batch_normalization_renorm,
            "batch_normalization_renorm_clipping": batch_normalization_renorm_clipping,
            "batch_normalization_renorm_momentum": batch_normalization_renorm_momentum,
        }
        overrides = {name: kwargs.pop(name) for name in [*kwargs] if name.startswith("lhuc_")}
        if unknown := [name for name in overrides if name not in self._extra_params]:
            raise ValueError(
                f"LHUCTower: 'lhuc_*' arguments must be among {[*self._extra_params]}. "
                f"Received: {unknown}"
            )
        super().__init__(output_dims, initializers, options, **kwargs)
        self._lhuc_options = _options.check(
            "LHUCTower", {k.removeprefix("lhuc_"): v for k, v in overrides.items()}, "lhuc_"
        )
        gating = {
            "gate_scale": gate_scale,
            "gate_on": gate_on,
            "gate_last": gate_last,
            "stop_gradient": stop_gradient,
            "identity_start": identity_start,
            "gate_dropout": gate_dropout,
        }
        for name, value in _gates.check(gating, self.n_layers).items():
            setattr(self, name, value)
        if self.identity_start:
            _gates.check_identity_start(self.gate_scale, self.lhuc_params)
        widths = _gates.gated_widths(self.output_dims, self.gate_on, self.gate_last)
        self.lhuc_output_dims = _gates.dims(lhuc_output_dims, widths)
        self._batch_norm = (
            self._make_batch_norm("batch_norm") if self.enable_batch_normalization else None
        )
        self._input_dims: tuple[int, int] | None = None
        self._blocks = [
            self._make_block(i, activation)
            for i, activation in enumerate(self._activation_per_layer(activations))
        ]

    def lhuc_params(self, name: str) -> Any:
        """Returns the value of an option that the gates use: their own, or else the tower's.

        Raises:
            ValueError: there is no option of this name.
        """
        if name not in _options.NAMES:
            raise _checks.refuse(
                "LHUCTower.lhuc_params", "name", f"must be one of {[*_options.NAMES]}", name
            )
        return self._lhuc_options.get(name, getattr(self, name))

    def gates(self, inputs: Any) -> list[Any]:
        """Returns what the gates multiply by in inference, one tensor for each gated layer.

        Args:
            inputs: what the tower takes, or, of a pair, the one tensor that feeds the gates; not a
                `keras.Input`, because a functional model cannot hold several layers named `lhuc`.

        Raises:
            ValueError: the tower is not built, or for other inputs.
        """
        if self._input_dims is None:
            rule = "must be built: call it, or its build(input_shape), first"
            raise ValueError(f"LHUCTower.gates: the tower {rule}. Received: {self.name!r}")
        inputs = keras.tree.map_structure(
            lambda x: ops.convert_to_tensor(x, dtype=self.compute_dtype), inputs
        )
        if _gates.is_tensor(inputs) and self._input_dims[0] != self._input_dims[1]:
            gate_input = inputs
            if gate_input.shape[-1] != self._input_dims[1]:
                rule = "must be what the tower takes, or the tensor that feeds its gates, with last"
                rule += f" axes {self._input_dims}"
                raise _checks.refuse("LHUCTower.gates", "inputs", rule, tuple(inputs.shape))
        else:
            _, gate_input = self._split(inputs)
        return [block.gate.values(gate_input) for block in self._blocks if block.gate is not None]

    def build(self, input_shape: Any) -> None:
        """Builds the batch norm and every layer with its gate."""
        hidden_shape, gate_input_shape = _gates.split_shapes(input_shape, self.stop_gradient)
        self._input_dims = hidden_shape[-1], gate_input_shape[-1]
        if self.gate_on == "input":
            self._make_first_gate(hidden_shape[-1])
        if self._batch_norm is not None:
            self._batch_norm.build(hidden_shape)
        for block in self._blocks:
            block.build(hidden_shape, gate_input_shape)
            hidden_shape = block.compute_output_shape(hidden_shape, gate_input_shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Runs the tower; `training` is for the batch norms and `gate_dropout`."""
        hidden, gate_input = self._split(inputs)
        hidden = self._as_floats(hidden)
        if self._batch_norm is not None:
            hidden = self._batch_norm(hidden, training=training)
        for block in self._blocks:
            hidden = call_child(block, hidden, gate_input, training=training)
        return hidden

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Returns the mask of the dense input."""
        return previous_mask[0] if isinstance(previous_mask, list | tuple) else previous_mask

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the outputs."""
        hidden_shape, _ = _gates.split_shapes(input_shape, self.stop_gradient)
        return (*hidden_shape[:-1], self.output_dims[-1])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, ready for JSON."""
        overrides = _options.serialize(self._lhuc_options)
        return {
            **super().get_config(),
            "lhuc_output_dims": [list(dims) for dims in self.lhuc_output_dims],
            "activations": [activations_lib.serialize(block.activation) for block in self._blocks],
            **{name: getattr(self, name) for name in _gates.NAMES},
            **{f"lhuc_{name}": value for name, value in overrides.items()},
        }

    def _split(self, inputs: Any) -> tuple[Any, Any]:
        """Returns the dense input and what feeds the gates."""
        hidden, gate_input = _gates.split(inputs, self.stop_gradient)
        if (hidden.shape[-1], gate_input.shape[-1]) != self._input_dims:
            raise ValueError(
                f"LHUCTower: 'inputs' must have the last axes they were built with, "
                f"{self._input_dims}. "
                f"Received: inputs.shape={(tuple(hidden.shape), tuple(gate_input.shape))}"
            )
        return hidden, gate_input

    def _make_first_gate(self, width: int) -> None:
        """Makes the gate on the input, unless `lhuc_output_dims` said how wide that is."""
        dims = self.lhuc_output_dims[0]
        if dims[-1] is not None:
            _gates.check_width(0, dims, "inputs.shape[-1]", width)
        elif self._blocks[0].gate is None:
            self._blocks[0].gate = self._make_gate(0, [*dims[:-1], width])

    def _make_block(self, index: int, activation: Any) -> LHUCBlock:
        is_last = index == self.n_layers - 1
        normalised = self.enable_batch_normalization and not is_last
        gates = self.lhuc_output_dims
        # Of unknown width: made by build.
        has_gate = index < len(gates) and gates[index][-1] is not None
        return LHUCBlock(
            dense=self._make_dense("dense", index),
            batch_norm=self._make_batch_norm("batch_norm") if normalised else None,
            activation=activations_lib.get(activation, **self._child_options("activation")),
            gate=self._make_gate(index, gates[index]) if has_gate else None,
            gate_on=self.gate_on,
            **self._child_options(f"layer_{index + 1}"),
        )

    def _make_gate(self, index: int, output_dims: list[Any]) -> LHUCGate:
        return LHUCGate(
            output_dims,
            scale=self.gate_scale,
            dropout=self.gate_dropout,
            identity_start=self.identity_start,
            initializers=fresh(self.initializers[index], index, 1),
            **{name: self.lhuc_params(name) for name in _options.NAMES},
            **self._child_options("lhuc"),
        )
