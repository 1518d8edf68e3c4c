# SPDX-License-Identifier: Apache-2.0
"""The options that MLP and LHUCTower have in common, and that `lhuc_*` overrides for the gates."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from mlayers.layers import _checks

_REGULARIZERS = ("kernel_regularizer", "bias_regularizer")

_CHECKS: dict[str, Callable[[str, str, Any], Any]] = {
    "use_bias": _checks.flag,
    "use_weight_norm": _checks.flag,
    "use_learnable_weight_norm": _checks.flag,
    "kernel_regularizer": _checks.regularizer,
    "bias_regularizer": _checks.regularizer,
    "enable_batch_normalization": _checks.flag,
    "batch_normalization_momentum": _checks.fraction,
    "batch_normalization_renorm": _checks.flag,
    "batch_normalization_renorm_clipping": _checks.clipping,
    "batch_normalization_renorm_momentum": _checks.fraction,
}

NAMES = tuple(_CHECKS)


def check(owner: str, options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Checks some or all of the options; `prefix` is what the user writes before their names."""
    return {name: _CHECKS[name](owner, prefix + name, value) for name, value in options.items()}


def serialize(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns checked options as they stand in a config."""
    config = dict(options)
    for name in _REGULARIZERS:
        if name in config:
            config[name] = keras.regularizers.serialize(config[name])
    clipping = config.get("batch_normalization_renorm_clipping")
    if clipping is not None:
        config["batch_normalization_renorm_clipping"] = dict(clipping)
    return config
