# SPDX-License-Identifier: Apache-2.0
"""What all layers of this package share."""

from typing import Any

import keras

from mlayers import activations
from mlayers.params import WithParams

register = keras.saving.register_keras_serializable(package="mlayers")


# Their call takes nothing but a tensor: no mask, no `training`.
_ACTIVATIONS_OF_ONE_TENSOR = (keras.layers.Activation, keras.layers.ReLU, activations.Sigmoid2)


class Layer(WithParams, keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """A Keras layer that has `params()`, passes masks on, and hands its settings to children."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def _child_options(self, name: str) -> dict[str, Any]:
        """Constructor arguments of a child: its name is a part of the paths of its weights."""
        return {"name": name, "dtype": self.dtype_policy, "trainable": self.trainable}

    def _as_floats(self, tensor: Any) -> Any:
        """Integers and booleans, which Keras leaves as they are, in the dtype of the layer."""
        is_floating = "float" in str(tensor.dtype)  # in every framework's words
        return tensor if is_floating else keras.ops.cast(tensor, self.compute_dtype)

    def _activate(self, activation: Any, tensor: Any) -> Any:
        """Applies an activation layer, or none, and keeps the dtype.

        Some functions of Keras do not: on JAX its tanh computes float64 in float32.
        """
        if activation is None:
            return tensor
        return keras.ops.cast(call_child(activation, tensor), self.compute_dtype)


def call_child(child: Any, *tensors: Any, training: bool | None = None) -> Any:
    """Calls a child that its parent has made with its own settings, and built.

    In eager torch the front door of a Keras layer takes 40 to 80 µs, as long as a small product. It
    converts and checks what the parent's has done already. What else it does keeps it in the way:
    to hand on a mask, to add the loss of an activity, to rematerialise.
    """
    # Said only where it is known: `None` would hide the `training` of the call around.
    mode = {} if training is None else {"training": training}
    if (
        keras.backend.backend() == "torch"  # where nothing compiles the front doors away
        and (isinstance(child, Layer) or type(child) in _ACTIVATIONS_OF_ONE_TENSOR)
        and getattr(tensors[0], "_keras_mask", None) is None
        and child.activity_regularizer is None
        and getattr(child, "_remat_mode", None) is None
    ):
        return child.call(*tensors, **(mode if isinstance(child, Layer) else {}))
    return child(*tensors, **mode)
