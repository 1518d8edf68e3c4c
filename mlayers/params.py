# SPDX-License-Identifier: Apache-2.0
"""Templates of layers, the way Monolith configures models: `params()`, edit, `instantiate()`."""

import inspect
from difflib import get_close_matches
from typing import Any, ClassVar

from keras import tree

__all__ = ["Params", "WithParams"]


class Params:
    """The constructor arguments of a class, as attributes and items, before there is an object.

    An argument starts at its default, one without a default at `None`. Arguments that a class takes
    only through `**kwargs` (`lhuc_use_bias`) can be set, but do not exist until they are.

    Args:
        cls: the layer class to make a template of.
        extra: names that its constructor takes through `**kwargs`.

    Raises:
        AttributeError: on reading or setting a name that the class does not take.
    """

    _cls: type
    _values: dict[str, Any]
    _settable: frozenset[str]

    def __init__(self, cls: type, extra: tuple[str, ...] = ()) -> None:
        _, *arguments = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
        values = {
            p.name: None if p.default is p.empty else p.default
            for p in arguments
            if p.kind is not p.VAR_KEYWORD
        }
        values |= {"name": None, "trainable": True, "dtype": None}  # what every Keras layer takes
        self.__dict__.update(_cls=cls, _values=values, _settable=frozenset((*values, *extra)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # Python's own protocols; there may be no _values yet
            raise AttributeError(name)
        if name not in self._values:
            raise self._unknown(name)
        return self._values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._settable:
            raise self._unknown(name)
        self._values[name] = value

    __getitem__ = __getattr__
    __setitem__ = __setattr__

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._values})

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        return f"{self._cls.__name__}.params({arguments})"

    def set(self, **values: Any) -> "Params":
        """Sets several arguments, or none if one is unknown, and returns the template itself."""
        for name in values:
            if name not in self._settable:
                raise self._unknown(name)
        self._values.update(values)
        return self

    def copy(self) -> "Params":
        """Returns an independent template with the same values."""
        new = type(self).__new__(type(self))
        # New lists and dicts; initializers and the like inside them are not modified by anyone.
        values = {k: tree.map_structure(lambda leaf: leaf, v) for k, v in self._values.items()}
        new.__dict__.update(self.__dict__, _values=values)
        return new

    def instantiate(self) -> Any:
        """Returns an object of the class; the template can make any number of them."""
        return self._cls(**self._values)

    def _unknown(self, name: str) -> AttributeError:
        unset = " until it is set" if name in self._settable else ""
        close = get_close_matches(name, self._settable - {name})
        hint = f"; did you mean {', '.join(map(repr, close))}?" if close and not unset else "."
        return AttributeError(f"{self._cls.__name__}.params() has no {name!r}{unset}{hint}")


class WithParams:
    """Gives a class `params()`."""

    _extra_params: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def params(cls) -> Params:
        """Returns a template of this layer: set its attributes, then call `instantiate()`.

        Example:
            >>> from mlayers.layers import MLP
            >>> template = MLP.params()
            >>> template.output_dims = [8, 1]
            >>> template.instantiate().output_dims
            [8, 1]
        """
        return Params(cls, cls._extra_params)
