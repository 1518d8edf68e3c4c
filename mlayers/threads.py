# SPDX-License-Identifier: Apache-2.0
"""How many threads the CPU kernels use: those of one pool, and in torch those of torch."""

from __future__ import annotations

import operator
from typing import Any

from mlayers.cython_cpu import core
from mlayers.ops._errors import type_error, value_error


def get_num_threads() -> int:
    """How many threads one call of a CPU kernel may use, the calling thread among them.

    At the start it is what the environment variable `OMP_NUM_THREADS` says, else the number of
    cores that this process may run on.

    Returns:
        At least 1.

    Raises:
        ImportError: the kernels are not compiled here.

    Example:
        >>> import mlayers
        >>> mlayers.get_num_threads() >= 1
        True
    """
    threads: int = core().get_num_threads()
    return threads


def set_num_threads(threads: int) -> None:
    """Let one call of a CPU kernel use up to `threads` threads, in the whole process.

    Holds for calls that start from now on, in every framework; in torch, whose own threads the
    kernels use, `torch.set_num_threads` is a limit as well. Small calls stay on the calling thread
    whatever the number. `threadpoolctl.threadpool_limits` works too.

    Args:
        threads: at least 1; 1 means that the calling thread works alone.

    Raises:
        ValueError: less than 1.
        TypeError: not an integer.
        ImportError: the kernels are not compiled here.

    Example:
        >>> import mlayers
        >>> before = mlayers.get_num_threads()
        >>> mlayers.set_num_threads(1)
        >>> mlayers.get_num_threads()
        1
        >>> mlayers.set_num_threads(before)
    """
    try:
        number = operator.index(threads)
    except TypeError:
        number = None
    if number is None or isinstance(threads, bool):
        raise type_error("set_num_threads", "'threads' must be an integer", threads=threads)
    if number < 1:
        raise value_error("set_num_threads", "'threads' must be at least 1", threads=threads)
    core().set_num_threads(min(number, 1024))


def register_with_threadpoolctl() -> None:
    """Make `threadpoolctl.threadpool_limits` and `threadpool_info` know the kernels' pool.

    Needs threadpoolctl 3.2, where other libraries may register.
    """
    import threadpoolctl

    if not hasattr(threadpoolctl, "LibController"):
        return

    class MlayersController(threadpoolctl.LibController):  # type: ignore[misc]
        user_api = "mlayers"
        internal_api = "mlayers"
        filename_prefixes = ("_call",)
        check_symbols = ("mlayers_get_num_threads", "mlayers_set_num_threads")

        def get_num_threads(self) -> Any:
            return self.dynlib.mlayers_get_num_threads()

        def set_num_threads(self, num_threads: int) -> Any:
            return self.dynlib.mlayers_set_num_threads(num_threads)

        def get_version(self) -> None:
            return None

        def set_additional_attributes(self) -> None:
            pass

    threadpoolctl.register(MlayersController)
