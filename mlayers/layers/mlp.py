# SPDX-License-Identifier: Apache-2.0
"""Multilayer perceptron with weight normalisation and batch normalisation."""

from typing import Any

import keras
from keras import ops

from mlayers import activations as activations_lib
from mlayers.layers import _checks
from mlayers.layers._layer import call_child, register
from mlayers.layers._stack import DenseStack
from mlayers.layers.dense import Dense


@register
class MLP(DenseStack):
    """Dense layers in a row: input batch norm, then per layer dense, batch norm, activation.

    Args:
        output_dims: width of each layer.
        activations: `None` is relu on all layers but the last; one activation is used on all layers
            but the last; a list has one for each layer. See `mlayers.activations.get`.
        initializers: of the kernels: one for all, or a list. A list that is too short is continued
            with `None`, the default (glorot uniform). Layers never start from equal kernels: one
            object with an integer seed gives every layer a seed derived from it.
        kernel_regularizer: of every kernel, as it is stored, before it is normalised.
        use_weight_norm: whether to normalise the kernels, see `Dense`.
        use_learnable_weight_norm: whether to train the lengths of their columns.
        use_bias: whether the dense layers have a bias.
        bias_regularizer: of every bias.
        enable_batch_normalization: whether to normalise the input, and the output of each dense
            layer but the last. As in every Keras layer, `training` decides between the statistics
            of the batch and the moving ones; where nobody gives it, the moving ones are used.
        batch_normalization_momentum: of the moving statistics.
        batch_normalization_renorm: whether to use batch renormalisation,
            https://arxiv.org/abs/1702.03275.
        batch_normalization_renorm_clipping: its limits, a dict with keys out of `rmin`, `rmax` and
            `dmax`.
        batch_normalization_renorm_momentum: of its statistics.
        segment_names: names of the fields that the input consists of, in the order of its columns;
            for `feature_insight`, on the outputs they have no influence.
        segment_sizes: how many columns each field has; they add up to the width of the input.
        **kwargs: `name`, `dtype`, `trainable` and other arguments of `keras.layers.Layer`.

    Input shape: `(batch, ..., input_dim)`.

    Output shape: `(batch, ..., output_dims[-1])`.

    Raises:
        ValueError: an argument is out of its range, or a list has a wrong length.

    Source: Monolith, `native_training/layers/mlp.py`.

    Example:
        >>> import numpy as np
        >>> mlp = MLP([8, 4, 1], activations="tanh")
        >>> tuple(mlp(np.ones((2, 3), "float32")).shape)
        (2, 1)
    """

    def __init__(
        self,
        output_dims: Any,
        activations: Any = None,
        initializers: Any = None,
        kernel_regularizer: Any = None,
        use_weight_norm: bool = True,
        use_learnable_weight_norm: bool = True,
        use_bias: bool = True,
        bias_regularizer: Any = None,
        enable_batch_normalization: bool = False,
        batch_normalization_momentum: float = 0.99,
        batch_normalization_renorm: bool = False,
        batch_normalization_renorm_clipping: dict[str, float] | None = None,
        batch_normalization_renorm_momentum: float = 0.99,
        segment_names: Any = None,
        segment_sizes: Any = None,
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
        super().__init__(output_dims, initializers, options, **kwargs)
        self._activations = [
            activations_lib.get(activation, **self._child_options(f"activation_{i}"))
            for i, activation in enumerate(self._activation_per_layer(activations))
        ]
        self._stacked_layers = self._make_stack()
        self.segment_names, self.segment_sizes = _checks.segments(
            "MLP", segment_names, segment_sizes
        )
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def get_layer(self, index: int) -> Any:
        """Returns a layer of the stack: batch norms, dense layers and activations all count.

        Raises:
            ValueError: there is no layer with this index.
        """
        n_stacked = len(self._stacked_layers)
        if not -n_stacked <= index < n_stacked:
            rule = f"must be smaller than the number of stacked layers ({n_stacked})"
            raise _checks.refuse("MLP.get_layer", "index", rule, index)
        return self._stacked_layers[index]

    def feature_insight(self, inputs: Any, label: Any = None, batch_size: int = 4096) -> Any:
        """Returns how much each field of the input adds to the first dense layer.

        Args:
            inputs: (B, N), what this layer receives.
            label: (B,) numbers to correlate the contributions with.
            batch_size: how many rows are computed at once.

        Returns:
            A `mlayers.insight.FeatureInsightReport`.

        Raises:
            ValueError: `segment_names` and `segment_sizes` were not given to the constructor, the
                layer is not built, `inputs` or `label` has a wrong shape.

        Example:
            >>> import numpy as np
            >>> mlp = MLP([4, 1], segment_names=["user", "price"], segment_sizes=[2, 1])
            >>> x = np.ones((5, 3), "float32")
            >>> mlp.build(x.shape)
            >>> [row.name for row in mlp.feature_insight(x).rows]
            ['user', 'price']
        """
        from mlayers.insight import feature_insight_report  # which knows this class

        return feature_insight_report(self, inputs, label=label, batch_size=batch_size)

    def build(self, input_shape: Any) -> None:
        """Builds every layer of the stack."""
        if self.segment_sizes is not None and sum(self.segment_sizes) != input_shape[-1]:
            rule = f"must add up to the width of the input, {input_shape[-1]}"
            raise _checks.refuse("MLP", "segment_sizes", rule, list(self.segment_sizes))
        shape = input_shape
        for layer in self._stacked_layers:
            layer.build(shape)
            if isinstance(layer, Dense):  # the others keep the shape
                shape = layer.compute_output_shape(shape)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Runs the stack; `training` is for the batch norms."""
        outputs = self._as_floats(inputs)
        for layer in self._stacked_layers:
            outputs = call_child(layer, outputs, training=training)
        return ops.cast(outputs, self.compute_dtype)  # which an activation may not keep

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the outputs."""
        return (*input_shape[:-1], self.output_dims[-1])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, ready for JSON."""
        activations = [activations_lib.serialize(a) for a in self._activations]
        names, sizes = self.segment_names, self.segment_sizes
        return {
            **super().get_config(),
            "activations": activations,
            "segment_names": None if names is None else list(names),
            "segment_sizes": None if sizes is None else list(sizes),
        }

    def _make_stack(self) -> list[Any]:
        stack = []
        if self.enable_batch_normalization:
            stack.append(self._make_batch_norm("batch_norm_in"))
        for i, activation in enumerate(self._activations):
            stack.append(self._make_dense(f"dense_{i}", i))
            if self.enable_batch_normalization and i < self.n_layers - 1:
                stack.append(self._make_batch_norm(f"batch_norm_{i}"))
            if activation is not None:
                stack.append(activation)
        return stack
