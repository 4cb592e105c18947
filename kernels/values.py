"""Equality and hash of frozen dataclasses that hold arrays."""

from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np


@dataclass(frozen=True, eq=False)
class ArrayValue:
    """Base of a dataclass with arrays: values are equal if their fields are, arrays by dtype, shape and elements.

    A subclass is declared with ``frozen=True, eq=False``: the equality that ``dataclass`` writes raises over arrays.
    Fields declared with ``field(compare=False)`` are left out. The hash agrees with the equality, as long as nobody
    writes to the arrays.
    """

    def __eq__(self, other):
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self is other or self._key() == other._key()

    def __hash__(self):
        return hash(self._key())

    def _key(self) -> tuple:
        return tuple(_hashable(getattr(self, f.name)) for f in fields(cast(Any, self)) if f.compare)


def _hashable(value):
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in value.items())
    return value
