# SPDX-License-Identifier: Apache-2.0
"""Weights of a Monolith checkpoint for the layers of this package.

Both sides name a weight by a path. The names here are mostly Monolith's; where they differ it is
because a Keras 3 layer name has no slash in it, and because Monolith numbers what it adds twice.

    here                          Monolith
    layer_1/dense/kernel          layer_1/layer_1/dense/kernel
    layer_1/batch_norm/gamma      layer_1/layer_1/batch_norm/gamma
    layer_1/activation/alpha      layer_1/p_re_lu/alpha
    batch_norm_in/gamma           BatchNorm/in/gamma
    batch_norm_0/gamma            BatchNorm/out/gamma
    batch_norm_1/gamma            BatchNorm/out_1/gamma
    attention_mlp/...             groupint_attention_mlp/...
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mlayers.layers import MLP, Dense, GroupInt, LHUCTower

__all__ = ["load_weights"]

# Applied in this order to a path here, relative to its layer.
_RENAMES = (
    (r"^(layer_\d+)/(dense|batch_norm)/", r"\1/\1/\2/"),
    (r"\bbatch_norm_in/", "BatchNorm/in/"),
    (r"\bbatch_norm_0/", "BatchNorm/out/"),
    (r"\bbatch_norm_(\d+)/", r"BatchNorm/out_\1/"),
    (r"^attention_mlp/", "groupint_attention_mlp/"),
)
_PRELU = re.compile(r"(.*/|^)(?:p_re_lu|activation)(?:_(\d+))?/alpha$")


def load_weights(layer: Any, weights: Mapping[str, Any]) -> None:
    """Fills a layer with the variables of its Monolith counterpart.

    Args:
        layer: a built `Dense`, `MLP`, `LHUCTower` or `GroupInt`.
        weights: arrays by variable name, as TensorFlow lists them, all of this one layer:
            `tower/lhuc_tower/layer_1/layer_1/dense/kernel:0`. The scope before the layer's own
            names and the `:0` may be there or not.

    Raises:
        TypeError: the layer is another one.
        ValueError: the layer is not built; or names are missing, given twice or not used, or arrays
            have a wrong shape. All of them are listed, and nothing is loaded.

    Example:
        >>> import numpy as np
        >>> from mlayers.layers import Dense
        >>> dense = Dense(2)
        >>> dense.build((None, 3))
        >>> load_weights(dense, {"dense/kernel:0": np.ones((3, 2)), "dense/bias:0": np.zeros(2)})
    """
    owner = type(layer).__name__
    if not isinstance(layer, Dense | MLP | LHUCTower | GroupInt):
        raise TypeError(
            "load_weights: 'layer' must be a Dense, MLP, LHUCTower or GroupInt of mlayers.layers. "
            f"Received: {layer!r}"
        )
    if not layer.built:
        raise ValueError(
            "load_weights: 'layer' must be built: call it, or its build(input_shape), first. "
            f"Received: {owner} {layer.name!r}"
        )
    variables = _variables(layer)
    given = {name: _canonical(name, weights) for name in weights}
    scope = _scope(given.values(), variables.keys())
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    problems = []
    for name, path in given.items():
        relative = path.removeprefix(scope)
        if relative not in variables or not path.startswith(scope):
            problems.append(f"not used: {name}")
        elif relative in arrays:
            problems.append(f"given twice: {name}")
        else:
            arrays[relative] = np.asarray(weights[name])
            shape = tuple(variables[relative].shape)
            if arrays[relative].shape != shape:
                problems.append(f"wrong shape: {name}, {arrays[relative].shape} for {shape}")
    problems += [f"missing: {scope}{path}" for path in variables if path not in arrays]
    if problems:
        raise ValueError(
            f"load_weights: 'weights' must be exactly those of {owner} {layer.name!r}. Received:"
            + "".join(f"\n  {problem}" for problem in problems)
        )
    for path, array in arrays.items():
        variables[path].assign(array)


def _variables(layer: Any) -> dict[str, Any]:
    """The variables of a layer by the name that Monolith has for them, relative to the layer."""
    paths = {v.path.removeprefix(f"{layer.path}/"): v for v in layer.weights}
    renamed = {}
    for path, variable in paths.items():
        for pattern, replacement in _RENAMES:
            path = re.sub(pattern, replacement, path)
        renamed[path] = variable
    return {_canonical(path, renamed): variable for path, variable in renamed.items()}


def _canonical(name: str, names: Iterable[str]) -> str:
    """A name without `:0`, and PReLUs numbered by folder: Monolith numbers them globally."""
    name = name.removesuffix(":0")
    match = _PRELU.match(name)
    if match is None:
        return name
    folder = match[1]
    others = (_PRELU.match(other.removesuffix(":0")) for other in names)
    numbers = sorted(int(m[2] or 0) for m in others if m is not None and m[1] == folder)
    rank = numbers.index(int(match[2] or 0))
    return f"{folder}p_re_lu_{rank}/alpha" if rank else f"{folder}p_re_lu/alpha"


def _scope(names: Iterable[str], wanted: Iterable[str]) -> str:
    """The scope before the layer's own names: of those that occur, the one that explains most."""
    given = set(names)
    scopes = {""} | {name[: m.end()] for name in given for m in re.finditer("/", name)}
    return max(sorted(scopes), key=lambda scope: sum(scope + path in given for path in wanted))
