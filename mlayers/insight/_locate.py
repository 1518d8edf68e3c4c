# SPDX-License-Identifier: Apache-2.0
"""Which dense layer of a layer or model is looked at, and how its input comes about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mlayers.layers import MLP, Dense, LHUCTower
from mlayers.layers._weight_norm import normed_kernel

_KINDS = (Dense, MLP, LHUCTower, keras.layers.Dense)
_INSTEAD = "Pass the layer itself, and as 'inputs' the array that the layer receives"


@dataclass(frozen=True)
class Place:
    """A dense layer, and what comes before it.

    Args:
        layer: what the user knows: the dense layer or the MLP or tower it is the first of.
        dense: the dense layer.
        norm: the batch norm between the layer's input and the dense layer, or `None`.
        to_input: a model of the layer's input, or `None` where the inputs are the layer's own.
    """

    layer: Any
    dense: Any
    norm: Any
    to_input: Any = None

    @property
    def width(self) -> int:
        """How many columns the input has."""
        return int(self.dense.kernel.shape[0])


def in_layer(owner: str, layer: Any) -> Place:
    """Returns the place of a layer whose inputs are given as they are.

    Args:
        owner: who asks, for the errors.
        layer: a built dense layer, MLP or tower.

    Raises:
        TypeError: it is something else.
        ValueError: it is not built, is quantised, or is a tower that gates its own input.
    """
    if not isinstance(layer, _KINDS):
        raise TypeError(
            f"{owner}: 'dense_or_model' must be a Dense, MLP or LHUCTower of mlayers.layers, a "
            f"keras.layers.Dense or a keras.Model. Received: {layer!r} "
            f"(of type {type(layer).__name__})"
        )
    if not layer.built:
        raise _refuse(owner, "must be built: call it, or its build(input_shape), first", layer)
    if isinstance(layer, LHUCTower) and layer.gate_on == "input":
        raise _refuse(owner, "must not gate its own input, which it then sees scaled", layer)
    norm, dense = _first_dense(layer)
    if dense.quantization_mode is not None:
        raise _refuse(owner, "must have a kernel of floats, it is quantised", layer)
    return Place(layer, dense, norm)


def in_model(owner: str, model: Any, width: int | None, name: str | None) -> Place:
    """Returns the place of the first fitting layer of a model, and a model of that layer's input.

    Args:
        owner: who asks, for the errors.
        model: a functional or a built sequential model.
        width: the columns that the layer's input must have; `None` looks for a layer that knows its
            segments.
        name: of the layer; `None` takes the one that no other fitting layer comes before.

    Raises:
        ValueError: there is no such layer, or more than one.
    """
    graph = model._functional if isinstance(model, keras.Sequential) else model
    if not isinstance(graph, keras.Function):
        rule = "must be a functional or a built sequential model, whose layers have known inputs"
        raise _refuse(owner, f"{rule}. {_INSTEAD}", model)
    if name is not None and all(layer.name != name for layer in model.layers):
        names = [layer.name for layer in model.layers]
        raise ValueError(
            f"{owner}: 'layer' must be one of the names of the model's layers, {names}. "
            f"Received: {name!r}"
        )
    found = []
    for layer in model.layers:
        if isinstance(layer, _KINDS) and name in (None, layer.name):
            place = in_layer(owner, layer)
            tensors = _inputs_of(graph, layer)
            known = getattr(layer, "segment_sizes", None) is not None
            if all(len(t.shape) == 2 for t in tensors) and (
                known if width is None else place.width == width
            ):
                found.append((place, tensors))
    what = f"named {name!r} " if name is not None else ""
    what += "with 'segment_sizes'" if width is None else f"whose inputs are (batch, {width})"
    if not found:
        rule = f"must have a Dense, MLP or LHUCTower {what} outside of models within it"
        raise _refuse(owner, f"{rule}. {_INSTEAD}", model)
    if any(len(tensors) > 1 for _, tensors in found):
        shared = [place.layer.name for place, tensors in found if len(tensors) > 1]
        rule = f"must call the layer once, it calls {shared} more often"
        raise _refuse(owner, f"{rule}. {_INSTEAD}", model)
    to_inputs = [keras.Model(graph.input, tensors[0]) for _, tensors in found]
    layers = [place.layer for place, _ in found]
    first = [
        Place(place.layer, place.dense, place.norm, to_input)
        for (place, _), to_input in zip(found, to_inputs, strict=True)
        if not any(layer is before for layer in layers for before in to_input.layers)
    ]
    if len(first) > 1:
        names = [place.layer.name for place in first]
        rule = f"must have one first layer {what}, it has {names}. Choose with layer=name, or: "
        raise _refuse(owner, rule + _INSTEAD[0].lower() + _INSTEAD[1:], model)
    return first[0]


def effective_kernel(dense: Any) -> np.ndarray:
    """Returns the kernel as inputs meet it, weight norm done: float64 if it is stored so, or
    float32.
    """
    kernel_io = keras.ops.convert_to_tensor(dense.kernel)
    stored = keras.backend.standardize_dtype(kernel_io.dtype)
    if isinstance(dense, Dense) and dense.allow_kernel_norm:
        kernel_io = normed_kernel(kernel_io, dense.trainable_kernel_norm)
    as_array = keras.ops.convert_to_numpy(kernel_io)
    return np.ascontiguousarray(as_array, "float64" if stored == "float64" else "float32")


def _first_dense(layer: Any) -> tuple[Any, Any]:
    """The batch norm in front, or `None`, and the first dense layer."""
    if isinstance(layer, MLP):
        first = layer.get_layer(0)
        return (None, first) if isinstance(first, Dense) else (first, layer.get_layer(1))
    if isinstance(layer, LHUCTower):
        return layer._batch_norm, layer._blocks[0].dense
    return None, layer


def _inputs_of(graph: Any, layer: Any) -> list[Any]:
    """What the layer receives in each of its calls in this graph; of a tower, the dense input."""
    nodes = [node for nodes in graph._nodes_by_depth.values() for node in nodes]
    return [node.input_tensors[0] for node in nodes if node.operation is layer]


def _refuse(owner: str, rule: str, received: Any) -> ValueError:
    return ValueError(
        f"{owner}: 'dense_or_model' {rule}. Received: {type(received).__name__} {received.name!r}"
    )
