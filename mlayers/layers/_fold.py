# SPDX-License-Identifier: Apache-2.0
"""Weight norm folded into plain kernels, for serving."""

from collections import Counter
from typing import Any

import keras
from keras.src.saving.serialization_lib import ObjectSharingScope  # as keras.saving uses it

from mlayers.layers._weight_norm import normed_kernel
from mlayers.layers.dense import Dense
from mlayers.layers.group_int import GroupInt
from mlayers.layers.lhuc_tower import LHUCTower
from mlayers.layers.mlp import MLP

_OURS = (Dense, MLP, LHUCTower, GroupInt)
_SWITCHES = ("allow_kernel_norm", "use_weight_norm", "lhuc_use_weight_norm")
# What Keras and a user's get_config, constructor and build raise.
_ERRORS = (AttributeError, KeyError, NotImplementedError, TypeError, ValueError)


def fold_weight_norm(model: Any) -> Any:
    """Returns a copy for serving that has plain kernels and gives the same predictions.

    Each normalised kernel becomes what it is in use, `kernel * length * rsqrt(max(sum(kernel**2),
    1e-6))`; the trained lengths are gone, and the copy's config has weight norm off. Everything
    else is copied as it is: shared layers stay shared, and regularizers stay, though their losses
    are now those of the folded kernels. The copy is not compiled; it saves and loads as any model.
    The original is not touched.

    Args:
        model: a built Keras model or layer of any kind, with any number of `Dense`, `MLP`,
            `LHUCTower` and `GroupInt` in it. It is copied as Keras saves and loads it: through
            `get_config`, `from_config` and the shapes it was built with.

    Returns:
        A built model or layer of the same class.

    Raises:
        TypeError: `model` is no Keras layer or model.
        ValueError: it is not built, or cannot be copied through its config; or a layer in it makes
            weight-normed layers that its config says nothing of.

    Source: Salimans and Kingma, Weight Normalization, https://arxiv.org/abs/1602.07868.

    Example:
        >>> import keras, numpy as np
        >>> from mlayers.layers import MLP, fold_weight_norm
        >>> model = keras.Sequential([keras.Input((3,)), MLP([8, 1])])
        >>> serving = fold_weight_norm(model)
        >>> len(model.weights), len(serving.weights)
        (6, 4)
        >>> x = np.ones((2, 3), "float32")
        >>> np.allclose(model.predict(x, verbose=0), serving.predict(x, verbose=0))
        True
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            "fold_weight_norm: 'model' must be a Keras model or layer. "
            f"Received: {model!r} (of type {type(model).__name__})"
        )
    normed = _normed(model)
    if not model.built or not all(layer.built for layer in normed):
        raise _refuse("must be built: call it, or its build(input_shape), first", model)
    if shared := _shared_by_graphs(model):
        rule = f"must not have layers that two functional models call, as they do {shared}: "
        raise _refuse(rule + "Keras cannot copy or save such a model", model)
    copy = _copy(model)
    left = [layer.path for layer in _normed(copy)]
    if left:
        rule = f"must have all its weight norms in its config, which says nothing of {left}"
        raise _refuse(rule, model)
    _fill(copy, model, normed)
    return copy


def _refuse(rule: str, model: Any) -> ValueError:
    return ValueError(
        f"fold_weight_norm: 'model' {rule}. Received: {type(model).__name__} {model.name!r}"
    )


def _normed(model: Any) -> list[Any]:
    # _flatten_layers, because a layer has no public list of the layers in it.
    dense = [layer for layer in model._flatten_layers() if isinstance(layer, Dense)]
    return [layer for layer in dense if layer.allow_kernel_norm]


def _shared_by_graphs(model: Any) -> list[str]:
    """Names of layers that nested functional models share: a copy would mix up their calls."""
    graphs = [m for m in model._flatten_layers() if isinstance(m, keras.Function)]
    homes = Counter(id(layer) for graph in graphs for layer in graph.layers)
    return sorted(
        {layer.name for graph in graphs for layer in graph.layers if homes[id(layer)] > 1}
    )


def _copy(model: Any) -> Any:
    """A copy with weight norm off, and weights of its own."""
    classes = {type(layer) for layer in model._flatten_layers()}
    registered = {cls: keras.saving.get_registered_name(cls) for cls in classes}
    ours = {name for cls, name in registered.items() if issubclass(cls, _OURS)}
    # A class that is not registered has its own name there, and may be out of an import's reach.
    unregistered = {
        cls.__name__: cls
        for cls, name in registered.items()
        if name == cls.__name__ and not cls.__module__.startswith("keras.")
    }
    try:
        with ObjectSharingScope():
            config = keras.saving.serialize_keras_object(model)
        with ObjectSharingScope():
            return keras.saving.deserialize_keras_object(
                _switched_off(config, ours), custom_objects=unregistered, safe_mode=False
            )
    except _ERRORS as error:
        rule = f"must be one that Keras can copy through its config ({error})"
        raise _refuse(rule, model) from error


def _switched_off(config: Any, names: set[str]) -> Any:
    """A config in which classes of these names have weight norm off, and nothing is compiled."""
    if isinstance(config, list | tuple):
        return type(config)(_switched_off(value, names) for value in config)
    if not isinstance(config, dict):
        return config
    new = {k: _switched_off(v, names) for k, v in config.items() if k != "compile_config"}
    if config.get("registered_name") in names:
        new["config"] |= {switch: False for switch in _SWITCHES if switch in new["config"]}
    return new


def _fill(copy: Any, model: Any, normed: list[Any]) -> None:
    """Gives the copy the weights, in which the lengths of the columns are left out."""
    kernels = {id(layer.kernel): layer for layer in normed}
    lengths = {id(layer.trainable_kernel_norm) for layer in normed}
    sources = [variable for variable in model.variables if id(variable) not in lengths]
    if [_face(v) for v in sources] != [_face(v) for v in copy.variables]:
        raise _refuse(
            "must be built alike from its config and the shapes it was built with: give it a build "
            f"or a build_from_config. A copy has {[_face(v) for v in copy.variables]}, it should "
            f"have {[_face(v) for v in sources]}",
            model,
        )
    for source, target in zip(sources, copy.variables, strict=True):
        # A copy: on JAX a training step gives up the very array that it updates.
        value = keras.ops.copy(keras.ops.convert_to_tensor(source))
        if id(source) in kernels:
            value = normed_kernel(value, kernels[id(source)].trainable_kernel_norm)
        target.assign(value)


def _face(variable: Any) -> tuple[str, tuple[int, ...]]:
    return variable.name, tuple(variable.shape)
