# SPDX-License-Identifier: Apache-2.0
"""What all layers of this package share."""

from typing import Any

import keras

from mlayers.params import WithParams

register = keras.saving.register_keras_serializable(package="mlayers")


class Layer(WithParams, keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """A Keras layer that has `params()`, passes masks on, and hands its settings to children."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def _child_options(self, name: str) -> dict[str, Any]:
        """Constructor arguments of a child: its name is a part of the paths of its weights."""
        return {"name": name, "dtype": self.dtype_policy, "trainable": self.trainable}

    def _activate(self, activation: Any, tensor: Any) -> Any:
        """Applies an activation layer, or none, and keeps the dtype.

        Some functions of Keras do not: on JAX its tanh computes float64 in float32.
        """
        if activation is None:
            return tensor
        return keras.ops.cast(activation(tensor), self.compute_dtype)
