# SPDX-License-Identifier: Apache-2.0
"""Dense layer with weight normalisation."""

from typing import Any

import keras
from keras import ops

from mlayers import activations
from mlayers.layers import _checks
from mlayers.layers._initializers import fresh
from mlayers.layers._layer import Layer, register
from mlayers.layers._product import plus_bias, product
from mlayers.layers._weight_norm import normed_product


@register
class Dense(Layer):
    """Fully connected layer, `activation(inputs @ kernel + bias)`, with an optional weight norm.

    With `allow_kernel_norm` the columns of the kernel are scaled to length 1:
    `kernel * rsqrt(max(sum(kernel**2, axis=0), 1e-6))`. With `kernel_norm_trainable` they are then
    scaled to a trained length, which starts at the length the columns were initialised with, so
    that the layer starts where a plain one would.

    Args:
        units: width of the output.
        activation: anything `mlayers.activations.get` takes.
        use_bias: whether to add a bias.
        kernel_initializer: of the kernel; `None` is `"glorot_uniform"`.
        bias_initializer: of the bias.
        kernel_regularizer: of the kernel as it is stored, before it is normalised.
        bias_regularizer: of the bias.
        allow_kernel_norm: whether to normalise the kernel.
        kernel_norm_trainable: whether to train the length of its columns; without
            `allow_kernel_norm` it has no effect.
        **kwargs: `name`, `dtype`, `trainable` and other arguments of `keras.layers.Layer`.

    Input shape: `(batch, ..., input_dim)`.

    Output shape: `(batch, ..., units)`.

    Raises:
        ValueError: an argument is out of its range, or the input has no known last axis.

    Source: Salimans and Kingma, Weight Normalization, https://arxiv.org/abs/1602.07868; Monolith,
    `native_training/layers/dense.py`.

    Example:
        >>> import numpy as np
        >>> layer = Dense(4, activation="relu", allow_kernel_norm=True, kernel_norm_trainable=True)
        >>> tuple(layer(np.ones((2, 3), "float32")).shape)
        (2, 4)
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        allow_kernel_norm: bool = False,
        kernel_norm_trainable: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        kernel_initializer = "glorot_uniform" if kernel_initializer is None else kernel_initializer
        self.units = _checks.dim("Dense", "units", units)
        self.activation = activations.get(
            _checks.activation("Dense", "activation", activation),
            **self._child_options("activation"),
        )
        self.use_bias = _checks.flag("Dense", "use_bias", use_bias)
        self.kernel_initializer = fresh(
            _checks.initializer("Dense", "kernel_initializer", kernel_initializer)
        )
        self.bias_initializer = fresh(
            _checks.initializer("Dense", "bias_initializer", bias_initializer)
        )
        self.kernel_regularizer = _checks.regularizer(
            "Dense", "kernel_regularizer", kernel_regularizer
        )
        self.bias_regularizer = _checks.regularizer("Dense", "bias_regularizer", bias_regularizer)
        self.allow_kernel_norm = _checks.flag("Dense", "allow_kernel_norm", allow_kernel_norm)
        self.kernel_norm_trainable = _checks.flag(
            "Dense", "kernel_norm_trainable", kernel_norm_trainable
        )
        self.kernel: Any = None
        self.trainable_kernel_norm: Any = None
        self.bias: Any = None
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def build(self, input_shape: Any) -> None:
        """Makes the kernel, the trained norm and the bias, for inputs of this shape."""
        input_dim = input_shape[-1]
        if input_dim is None:
            raise ValueError(
                "Dense: 'inputs' must have a last axis of known size. "
                f"Received: inputs.shape={tuple(input_shape)}"
            )
        # No autocast: the norm is taken in the precision that the kernel is stored in.
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_dim, self.units),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            autocast=False,
        )
        if self.allow_kernel_norm and self.kernel_norm_trainable:
            self.trainable_kernel_norm = self.add_weight(
                name="trainable_kernel_norm",
                shape=(self.units,),
                initializer=self._initial_kernel_norm,
                autocast=False,
            )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.units,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
            )
        if self.activation is not None:
            self.activation.build(self.compute_output_shape(input_shape))
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_dim})
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Computes `activation(inputs @ kernel + bias)`; `training` changes nothing."""
        inputs = self._as_floats(inputs)
        kernel_io = ops.convert_to_tensor(self.kernel)
        if self.allow_kernel_norm:
            outputs = normed_product(
                inputs, kernel_io, self.trainable_kernel_norm, self.compute_dtype
            )
        else:
            outputs = product(inputs, ops.cast(kernel_io, self.compute_dtype))
        if self.bias is not None:
            outputs = plus_bias(outputs, ops.convert_to_tensor(self.bias))
        return self._activate(self.activation, outputs)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the outputs."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, ready for JSON."""
        return {
            **super().get_config(),
            "units": self.units,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "allow_kernel_norm": self.allow_kernel_norm,
            "kernel_norm_trainable": self.kernel_norm_trainable,
        }

    def _initial_kernel_norm(self, shape: Any, dtype: Any = None) -> Any:
        # From the kernel itself: drawing it again would, with a stateful seed, be another kernel.
        return ops.cast(ops.sqrt(ops.sum(ops.square(self.kernel), axis=0)), dtype)
