# SPDX-License-Identifier: Apache-2.0
"""Registers with other packages as soon as they are there, in whatever order they are imported.

A SavedModel can be loaded only where TensorFlow knows its ops, a program of torch.export only where
torch does, and both may be loaded before any function of this package is called. But `import
mlayers` must import neither. So where one comes later, a finder waits for it on `sys.meta_path`,
lets the others find it, and leaves when it has been imported.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def call(name: str, function: Callable[[], None]) -> None:
    """Call a function now if the package `name` is loaded, else right after its import.

    One function for each package, the last: two finders that wait for one would ask each other.
    """
    # By an attribute: one left by an earlier import of this module is of another class.
    finders = [f for f in sys.meta_path if getattr(f, "_mlayers_waits_for", "") != name]
    sys.meta_path[:] = finders
    if name in sys.modules:
        _call(name, function)
    else:
        sys.meta_path.insert(0, _Finder(name, function))


def _call(name: str, function: Callable[[], None]) -> None:
    try:
        function()
    except Exception as error:  # the program imports that package, and need not use this one
        warnings.warn(
            f"mlayers: it is not registered with {name} ({type(error).__name__}: {error})",
            RuntimeWarning,
        )


class _Finder:
    """Finds nothing itself; makes the loader of one package call a function at the end."""

    def __init__(self, name: str, function: Callable[[], None]) -> None:
        self._mlayers_waits_for = name
        self.function = function

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, with that one change; also for a mere question."""
        if name != self._mlayers_waits_for:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find and finder != self else None
            if spec is not None:
                self._wrap(spec.loader)
                return spec
        return None

    def _wrap(self, loader: Any) -> None:
        execute = getattr(loader, "exec_module", None)
        if execute is None or not hasattr(loader, "__dict__"):
            return  # a loader of another kind: what waits is done when the first op is called

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # the class's own is visible again
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                _call(self._mlayers_waits_for, self.function)

        loader.exec_module = exec_module
