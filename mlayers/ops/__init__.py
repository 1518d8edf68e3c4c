# SPDX-License-Identifier: Apache-2.0
"""The array operations, each in a file of its own that is read from top to bottom.

Every function takes NumPy arrays, tensors of the active Keras backend (TensorFlow, JAX, torch),
Keras variables, or KerasTensors, and checks its arguments the same way for all.

The functions are those that the files of this folder name in `__all__`: adding an op edits no list.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

__all__: list[str] = []

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        _functions = import_module(f"{__name__}.{_module.name}")
        for _name in _functions.__all__:
            globals()[_name] = getattr(_functions, _name)
            __all__.append(_name)


def __getattr__(name: str) -> Any:  # never reached for an op; tells type checkers there are more
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
