# SPDX-License-Identifier: Apache-2.0
"""A tower of dense layers whose units are scaled by gates that see other features."""

from typing import Any

from keras import ops

from mlayers import activations as activations_lib
from mlayers.layers import _checks, _options
from mlayers.layers._initializers import fresh
from mlayers.layers._layer import call_child, register
from mlayers.layers._lhuc_block import LHUCBlock
from mlayers.layers._stack import DenseStack
from mlayers.layers.mlp import MLP


@register
class LHUCTower(DenseStack):
    """Dense layers in a row, each multiplied by a gate: Learning Hidden Unit Contributions.

    Each layer computes `h = activation(batch_norm(dense(h))) * gate(lhuc_input)`. Its gate is an
    MLP with relu inside and `2 * sigmoid` last: from 0 to 2 for each unit, 1 to leave it as it is.

    Args:
        output_dims: width of each layer.
        lhuc_output_dims: widths of the gates' layers. A list of lists gives each gate its own; the
            last of each must be the width of the layer it gates. A list of integers gives all gates
            the same, and the width of the layer is appended. `None` and `[]` are gates of one
            layer.
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
        **kwargs: each option from `use_bias` on, with `lhuc_` before its name, is another value for
            the gates alone (`lhuc_use_bias=False`); given as `None` it is `None` there. Then
            `name`, `dtype`, `trainable` and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: one tensor, which feeds the tower and the gates, or a pair
            `(dense_input, lhuc_input)`.
        training: whether batch norms use the statistics of the batch; where nobody gives it,
            they use the moving ones.

    Input shape: `(batch, ..., input_dim)`, or two such shapes with the same leading axes.

    Output shape: `(batch, ..., output_dims[-1])`. A mask of `dense_input` is passed on.

    Raises:
        ValueError: an argument is out of its range, a list has a wrong length, `inputs` is a list
            that is not a pair, a `lhuc_*` argument is unknown.

    Source: Swietojanski, Li and Renals, https://arxiv.org/abs/1601.02828; Monolith,
    `native_training/layers/lhuc.py`.

    Example:
        >>> import numpy as np
        >>> tower = LHUCTower([8, 4, 1], lhuc_output_dims=[6], lhuc_use_bias=False)
        >>> dense_input, lhuc_input = np.ones((2, 5), "float32"), np.ones((2, 3), "float32")
        >>> tuple(tower((dense_input, lhuc_input)).shape)
        (2, 1)
    """

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
        self.lhuc_output_dims = self._gate_dims(lhuc_output_dims)
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

    def gates(self, lhuc_input: Any) -> list[Any]:
        """Returns what the gates multiply each layer by: one (batch, ..., units) tensor a layer.

        Args:
            lhuc_input: the tensor that feeds the gates; not a `keras.Input`, because a functional
                model cannot hold several layers named `lhuc`.
        """
        return [2 * ops.sigmoid(block.gate(lhuc_input)) for block in self._blocks]

    def build(self, input_shape: Any) -> None:
        """Builds the batch norm and every layer with its gate."""
        hidden_shape, lhuc_input_shape = _pair(input_shape, _is_shape, "inputs.shape")
        self._input_dims = hidden_shape[-1], lhuc_input_shape[-1]
        if self._batch_norm is not None:
            self._batch_norm.build(hidden_shape)
        for block in self._blocks:
            block.build(hidden_shape, lhuc_input_shape)
            hidden_shape = block.compute_output_shape(hidden_shape, lhuc_input_shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Runs the tower; `training` is for the batch norms."""
        hidden, lhuc_input = _pair(inputs, _is_tensor, "inputs")
        _check_leading_axes(tuple(hidden.shape), tuple(lhuc_input.shape))
        if (hidden.shape[-1], lhuc_input.shape[-1]) != self._input_dims:
            raise ValueError(
                f"LHUCTower: 'inputs' must have the last axes they were built with, "
                f"{self._input_dims}. "
                f"Received: inputs.shape={(tuple(hidden.shape), tuple(lhuc_input.shape))}"
            )
        if self._batch_norm is not None:
            hidden = self._batch_norm(hidden, training=training)
        for block in self._blocks:
            hidden = call_child(block, hidden, lhuc_input, training=training)
        return hidden

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Returns the mask of the dense input."""
        return previous_mask[0] if isinstance(previous_mask, list | tuple) else previous_mask

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the outputs."""
        hidden_shape, lhuc_input_shape = _pair(input_shape, _is_shape, "inputs.shape")
        _check_leading_axes(hidden_shape, lhuc_input_shape)
        return (*hidden_shape[:-1], self.output_dims[-1])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, ready for JSON."""
        overrides = _options.serialize(self._lhuc_options)
        return {
            **super().get_config(),
            "lhuc_output_dims": [list(dims) for dims in self.lhuc_output_dims],
            "activations": [activations_lib.serialize(block.activation) for block in self._blocks],
            **{f"lhuc_{name}": value for name, value in overrides.items()},
        }

    def _gate_dims(self, lhuc_output_dims: Any) -> list[list[int]]:
        if lhuc_output_dims is None or lhuc_output_dims in ([], ()):
            return [[dim] for dim in self.output_dims]
        if not isinstance(lhuc_output_dims, list | tuple) or not (
            all(isinstance(dims, list | tuple) for dims in lhuc_output_dims)
            or not any(isinstance(dims, list | tuple) for dims in lhuc_output_dims)
        ):
            rule = "must be a list of integers or a list of lists of integers"
            raise _checks.refuse("LHUCTower", "lhuc_output_dims", rule, lhuc_output_dims)
        if not isinstance(lhuc_output_dims[0], list | tuple):
            hidden = _checks.dims("LHUCTower", "lhuc_output_dims", lhuc_output_dims)
            return [[*hidden, dim] for dim in self.output_dims]
        gates = [
            _checks.dims("LHUCTower", f"lhuc_output_dims[{i}]", dims)
            for i, dims in enumerate(
                _checks.per_layer("LHUCTower", "lhuc_output_dims", lhuc_output_dims, self.n_layers)
            )
        ]
        for i, (dims, dim) in enumerate(zip(gates, self.output_dims, strict=True)):
            if dims[-1] != dim:
                rule = f"must end in output_dims[{i}]={dim}"
                raise _checks.refuse("LHUCTower", f"lhuc_output_dims[{i}]", rule, dims)
        return gates

    def _make_block(self, index: int, activation: Any) -> LHUCBlock:
        is_last = index == self.n_layers - 1
        normalised = self.enable_batch_normalization and not is_last
        return LHUCBlock(
            dense=self._make_dense("dense", index),
            batch_norm=self._make_batch_norm("batch_norm") if normalised else None,
            activation=activations_lib.get(activation, **self._child_options("activation")),
            # Ends in logits: the block applies the 2 * sigmoid.
            gate=MLP(
                self.lhuc_output_dims[index],
                initializers=fresh(self.initializers[index], index, 1),
                **{name: self.lhuc_params(name) for name in _options.NAMES},
                **self._child_options("lhuc"),
            ),
            **self._child_options(f"layer_{index + 1}"),
        )


def _check_leading_axes(hidden_shape: Any, lhuc_input_shape: Any) -> None:
    leading = zip(hidden_shape[:-1], lhuc_input_shape[:-1], strict=False)
    if not 1 < len(hidden_shape) == len(lhuc_input_shape) or any(
        a is not None and b is not None and a != b for a, b in leading
    ):
        raise ValueError(
            "LHUCTower: 'inputs' must be two tensors with the same leading axes, at least one. "
            f"Received: inputs.shape={(tuple(hidden_shape), tuple(lhuc_input_shape))}"
        )


def _is_shape(shape: Any) -> bool:
    return all(size is None or isinstance(size, int) for size in shape)


def _is_tensor(tensor: Any) -> bool:
    return not isinstance(tensor, list | tuple | dict)


def _pair(inputs: Any, is_one: Any, name: str) -> tuple[Any, Any]:
    """Returns the tower's and the gates' input (or its shape), of one for both or of a pair."""
    if is_one(inputs):
        return inputs, inputs
    if not isinstance(inputs, list | tuple) or len(inputs) != 2 or not all(map(is_one, inputs)):
        length = f"{len(inputs)} entries" if isinstance(inputs, list | tuple) else type(inputs)
        raise ValueError(
            f"LHUCTower: 'inputs' must be one tensor or a pair (dense_input, lhuc_input). "
            f"Received: {name} with {length}"
        )
    return inputs[0], inputs[1]
