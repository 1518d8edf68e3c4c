# SPDX-License-Identifier: Apache-2.0
"""As much of CuPy as this package uses, on memory of the CPU: for dispatch without a GPU.

Its arrays are no NumPy arrays, NumPy's functions and operators answer with more of them, and a
device and a stream can be asked for, as with CuPy. Nothing of it is looked for that CuPy 13 does
not have.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin


class Device(contextlib.nullcontext):
    """The one device."""

    def __init__(self, id: int = 0) -> None:
        super().__init__()
        self.id = id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"<CUDA Device {self.id}>"


class ndarray(NDArrayOperatorsMixin):
    """A NumPy array that does not say so."""

    def __init__(self, host: np.ndarray, device: int = 0) -> None:
        self.host = host
        self.device = Device(device)

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.host.ctypes.data)

    @property
    def flags(self) -> Any:
        flags = self.host.flags
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous)

    def __getattr__(self, name: str) -> Any:
        if name in ("dtype", "shape", "ndim", "size", "itemsize", "nbytes"):
            return getattr(self.host, name)
        if name in ("astype", "fill", "max", "reshape", "ravel", "sum", "transpose"):
            return lambda *a, **k: _wrap(getattr(self.host, name)(*a, **k))
        raise AttributeError(name)

    def copy(self, order: str = "C") -> ndarray:
        return asarray(_aligned(self.host))

    def get(self) -> np.ndarray:
        return self.host

    def __float__(self) -> float:
        return float(self.host)

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, key: Any) -> Any:
        return _wrap(self.host[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.host[key] = _unwrap(value)

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")  # as CuPy

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _wrap(getattr(ufunc, method)(*map(_unwrap, inputs), **kwargs))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _wrap(function(*_unwrap(args), **_unwrap(kwargs)))


def _wrap(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = np.asarray(value)
    return ndarray(value) if isinstance(value, np.ndarray) else value


def _unwrap(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value.host
    if isinstance(value, tuple | list):
        return type(value)(map(_unwrap, value))
    return {k: _unwrap(v) for k, v in value.items()} if isinstance(value, dict) else value


def _aligned(host: np.ndarray) -> np.ndarray:
    """A copy that begins on 512 bytes, as CuPy's pool gives memory."""
    room = np.empty(host.nbytes + 512, np.uint8)
    begin = -room.ctypes.data % 512
    array = room[begin : begin + host.nbytes].view(host.dtype).reshape(host.shape)
    array[...] = host
    return array


def asarray(value: Any, dtype: Any = None) -> ndarray:
    if isinstance(value, ndarray):
        return value if dtype in (None, value.dtype) else value.astype(dtype)
    return ndarray(_aligned(np.asarray(value, dtype)))


def asnumpy(value: ndarray) -> np.ndarray:
    return value.get()


def empty(shape: Any, dtype: Any = float) -> ndarray:
    array = ndarray(_aligned(np.empty(shape, dtype)))
    array.host.reshape(-1).view(np.uint8)[...] = 0xFF  # NaN: what a kernel leaves out is seen
    return array


def empty_like(array: ndarray) -> ndarray:
    return empty(array.shape, array.dtype)


def tile(array: ndarray, times: Any) -> ndarray:
    return asarray(np.tile(array.host, times))


def copyto(target: ndarray, source: ndarray) -> None:
    target[...] = source


def negative(array: ndarray, out: ndarray) -> ndarray:
    np.negative(array.host, out=out.host)
    return out


def may_share_memory(one: ndarray, other: ndarray) -> bool:
    return np.may_share_memory(one.host, other.host)


def shares_memory(one: ndarray, other: ndarray) -> bool:
    return np.shares_memory(one.host, other.host)


def _properties(device: int) -> dict[str, Any]:
    return {
        "name": b"Emulated GPU",
        "major": 9,
        "minor": 0,
        "multiProcessorCount": 1,
        "totalGlobalMem": 8 * 10**9,
    }


__version__ = "14.0.0"
cuda = SimpleNamespace(
    Device=Device,
    get_current_stream=lambda: SimpleNamespace(ptr=0, synchronize=lambda: None),
    runtime=SimpleNamespace(
        getDeviceProperties=_properties,
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 12090,
    ),
)
random = SimpleNamespace(
    rand=lambda *shape: asarray(np.random.default_rng(0).random(shape)),
)
