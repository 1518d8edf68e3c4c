# SPDX-License-Identifier: Apache-2.0
"""ByteDance Monolith's recommender layers for Keras 3, on TensorFlow, JAX and torch.

The array operations are here (`mlayers.ffm`, …), the Keras layers in `mlayers.layers`. Importing
`mlayers` loads neither Keras nor a framework nor CuPy; `mlayers.layers` loads Keras.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any

from mlayers import ops
from mlayers.bridges import _after_import, native
from mlayers.config import use_kernels
from mlayers.dispatch.arrays import know_torch
from mlayers.show_config import show_config
from mlayers.threads import (
    get_num_threads,
    register_with_threadpoolctl,
    set_num_threads,
)

__version__ = version("mlayers")

_LOADED_ON_USE = ("activations", "insight", "layers", "monolith")  # they import Keras

__all__ = [  # noqa: PLE0604
    "get_num_threads",
    "ops",
    "set_num_threads",
    "show_config",
    "use_kernels",
    *_LOADED_ON_USE,
    *ops.__all__,
]


def _meet_torch() -> None:
    know_torch()
    native.load_only("torch")


# What is stored elsewhere names these ops, and must find them whichever package is imported first.
_after_import.call("tensorflow", partial(native.load_only, "tensorflow"))
_after_import.call("torch", _meet_torch)
_after_import.call("threadpoolctl", register_with_threadpoolctl)

globals().update({name: getattr(ops, name) for name in ops.__all__})


def __getattr__(name: str) -> Any:
    if name in _LOADED_ON_USE:
        return import_module(f"mlayers.{name}")
    raise AttributeError(f"module 'mlayers' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LOADED_ON_USE])
