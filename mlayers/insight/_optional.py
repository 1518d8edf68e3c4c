# SPDX-License-Identifier: Apache-2.0
"""Packages that only some calls need."""

from importlib import import_module
from typing import Any


def load(module: str, caller: str) -> Any:
    """Returns a module, or says which package to install for what.

    Args:
        module: its full name.
        caller: who needs it, as the user knows it.

    Raises:
        ImportError: its package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{caller} needs the package {package!r}: pip install {package}. ({error})"
        ) from error
