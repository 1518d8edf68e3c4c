# SPDX-License-Identifier: Apache-2.0
"""Activations by name, as Monolith spells them, each one a Keras layer.

Keras names functions; Monolith names layers, because some of its activations have parameters
(`leakyrelu`, `relu` with a ceiling) or weights (`prelu`). A layer carries both, can be saved, and
can be made anew for every place it is used in, so that no two places share weights.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from difflib import get_close_matches
from functools import partial
from typing import Any

import keras
from keras import ops

__all__ = [
    "HardSigmoid",
    "LeakyReLU",
    "Sigmoid2",
    "ThresholdedReLU",
    "deserialize",
    "get",
    "serialize",
]

_register = keras.saving.register_keras_serializable(package="mlayers")


class _Elementwise(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """A layer without weights whose output has the shape and the mask of its input."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        self.built = True

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        # Said explicitly: the config that Keras makes up fails for a layer with a dtype policy.
        return {**super().get_config()}


@_register
class Sigmoid2(_Elementwise):
    """`2 * sigmoid(x)`: a gate between 0 and 2 that lets its input pass unchanged at `x = 0`."""

    def call(self, inputs: Any) -> Any:
        """Computes the gate."""
        return 2 * ops.sigmoid(inputs)


@_register
class HardSigmoid(_Elementwise):
    """`0.2 * x + 0.5` clipped to [0, 1], as in Keras 2 (the function of Keras 3 has slope 1/6).

    The slope at the two corners is 0.2 on every backend; their own `clip` differ there.
    """

    def call(self, inputs: Any) -> Any:
        """Computes the clipped line."""
        # By comparing the inputs: where a compiler fuses the line it misses 0 and 1 by a bit.
        outputs = ops.where(inputs < -2.5, ops.zeros_like(inputs), 0.2 * inputs + 0.5)
        return ops.where(inputs > 2.5, ops.ones_like(inputs), outputs)


@_register
class LeakyReLU(keras.layers.LeakyReLU):  # type: ignore[misc]  # Keras is untyped
    """`keras.layers.LeakyReLU` with the gradient `negative_slope` at 0 on every backend.

    The backends disagree there: on JAX the gradient of Keras' own layer is 1.
    """

    def call(self, inputs: Any) -> Any:
        """Computes the two half lines."""
        return ops.where(inputs > 0, inputs, self.negative_slope * inputs)


@_register
class ThresholdedReLU(_Elementwise):
    """`x` where `x > theta`, else 0.

    Args:
        theta: the threshold, not negative.
    """

    def __init__(self, theta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not theta >= 0:
            raise ValueError(
                f"ThresholdedReLU: 'theta' must be a number >= 0. Received: theta={theta!r}"
            )
        self.theta = float(theta)

    def call(self, inputs: Any) -> Any:
        """Keeps what is above the threshold."""
        return ops.where(inputs > self.theta, inputs, ops.zeros_like(inputs))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "theta": self.theta}


_LAYERS: dict[str, Callable[..., Any]] = {
    "elu": keras.layers.ELU,
    "exponential": partial(keras.layers.Activation, "exponential"),
    "gelu": partial(keras.layers.Activation, "gelu"),
    "hard_sigmoid": HardSigmoid,
    "hardsigmoid": HardSigmoid,
    "leakyrelu": LeakyReLU,
    "linear": partial(keras.layers.Activation, "linear"),
    "prelu": keras.layers.PReLU,
    "relu": keras.layers.ReLU,
    "selu": partial(keras.layers.Activation, "selu"),
    "sigmoid": partial(keras.layers.Activation, "sigmoid"),
    "sigmoid2": Sigmoid2,
    "softmax": keras.layers.Softmax,
    "softplus": partial(keras.layers.Activation, "softplus"),
    "softsign": partial(keras.layers.Activation, "softsign"),
    "swish": partial(keras.layers.Activation, "silu"),
    "tanh": partial(keras.layers.Activation, "tanh"),
    "thresholdedrelu": ThresholdedReLU,
}


def get(identifier: Any, **overrides: Any) -> Any:
    """Returns a new activation layer.

    Args:
        identifier: a name in any case (`exponential`, `gelu`, `hard_sigmoid`, `hardsigmoid`,
            `linear`, `selu`, `sigmoid`, `sigmoid2`, `softplus`, `softsign`, `swish`, `tanh`,
            `leakyrelu`, `relu`, `elu`, `softmax`, `thresholdedrelu`, `prelu`), a Keras layer or
            layer class, a function of one tensor, what `serialize` gave, or `None`.
        **overrides: layer arguments such as `name` and `dtype` that replace the activation's own.

    Returns:
        A Keras layer, or `None` for `None`. A layer that is passed in is copied, weights excluded:
        activations with weights (`prelu`) are never shared between the layers that use them.

    Raises:
        ValueError: the name is unknown.
        TypeError: the identifier is none of the above.

    Example:
        >>> get("LeakyReLU").negative_slope
        0.3
    """
    if identifier is None:
        return None
    policy = overrides.get("dtype")
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):  # of paths, which activations lack
        policy = policy.default_policy
    if isinstance(policy, keras.DTypePolicy):
        # By name: a layer without its own get_config (Keras' ELU) remembers only plain arguments.
        overrides["dtype"] = policy.name
    if isinstance(identifier, str):
        return _from_name(identifier, overrides)
    if isinstance(identifier, Mapping):
        return deserialize(identifier, **overrides)
    if isinstance(identifier, type) and issubclass(identifier, keras.layers.Layer):
        return identifier(**overrides)
    if isinstance(identifier, keras.layers.Layer):
        return _copy(identifier, overrides)
    if callable(identifier) and not isinstance(identifier, type):
        return keras.layers.Activation(identifier, **overrides)
    raise TypeError(
        "activations.get: 'identifier' must be a name, a config, a Keras layer, a function or "
        f"None. Received: {identifier!r}"
    )


def serialize(activation: Any) -> dict[str, Any] | None:
    """Returns an activation as a dict for JSON; `deserialize` gives the same activation back.

    Args:
        activation: anything that `get` takes.

    Returns:
        The Keras config of the layer without `name`, `trainable` and `dtype`, which belong to the
        place where the activation is used; `None` for `None`.

    Example:
        >>> serialize("sigmoid2")["class_name"]
        'Sigmoid2'
    """
    layer = get(activation)
    if layer is None:
        return None
    serialized: dict[str, Any] = keras.saving.serialize_keras_object(layer)
    of_the_place = ("name", "trainable", "dtype")
    config = {k: v for k, v in serialized["config"].items() if k not in of_the_place}
    return {**serialized, "config": config}


def deserialize(config: Any, **overrides: Any) -> Any:
    """Returns the activation layer that a config describes.

    Args:
        config: what `serialize` gave, any Keras config of a layer or a function, a dict of Monolith
            (`{"name": "LeakyReLU", "alpha": 0.1}`), a name, or `None`. It is not modified.
        **overrides: as in `get`.

    Raises:
        ValueError: the dict is no such config, or the name in it is unknown.

    Example:
        >>> deserialize({"name": "LeakyReLU", "alpha": 0.1}).negative_slope
        0.1
    """
    if not isinstance(config, Mapping):
        return get(config, **overrides)
    fields = deepcopy(dict(config))
    if "module" in fields:
        return get(keras.saving.deserialize_keras_object(fields), **overrides)
    if "class_name" in fields:  # as Keras 2 wrote it
        return _from_name(fields["class_name"], {**fields.get("config", {}), **overrides})
    if "name" in fields:  # as Monolith wrote it
        return _from_name(fields.pop("name"), {**fields, **overrides})
    raise ValueError(
        "activations.deserialize: 'config' must have a 'class_name' (Keras) or a 'name' "
        f"(Monolith). Received: {config!r}"
    )


def _from_name(name: str, arguments: dict[str, Any]) -> Any:
    key = name.lower()
    if key not in _LAYERS:
        close = get_close_matches(key, _LAYERS)
        hint = f"did you mean {', '.join(map(repr, close))}?" if close else f"known: {[*_LAYERS]}."
        raise ValueError(f"activations.get: unknown activation; {hint} Received: {name!r}")
    if key == "leakyrelu" and "alpha" in arguments:  # its name before Keras 3
        arguments = {**arguments, "negative_slope": arguments["alpha"]}
        del arguments["alpha"]
    return _LAYERS[key](**arguments)


def _copy(layer: Any, overrides: dict[str, Any]) -> Any:
    if type(layer) is keras.layers.Activation:
        # By the function itself: a lambda has no config to make it from.
        own = {"name": layer.name, "trainable": layer.trainable, "dtype": layer.dtype_policy}
        return keras.layers.Activation(layer.activation, **{**own, **overrides})
    return type(layer).from_config({**layer.get_config(), **overrides})
