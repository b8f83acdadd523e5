"""Which tools may share a warm worker: equal class and equal configuration.

The configuration is the bound signature of the constructor, with defaults, canonically encoded:
every value carries its type, so that ``1``, ``True``, ``1.0`` and ``"1"`` stay four things, and
mappings are ordered. A value that cannot be encoded makes the instance its own identity: never
sharing costs a load, sharing wrongly costs the truth.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Hashable, Mapping
from pathlib import PurePath
from typing import Any

__all__ = ["Identity", "NotEncodableError", "encode", "encoded_identity"]

Identity = tuple[type, Hashable]


def encoded_identity(kind: type, configuration: Mapping[str, Any] | None) -> Identity | None:
    """Return the identity of a tool of class `kind`; None: its configuration has no encoding."""
    if configuration is None:
        return None
    try:
        return (kind, encode(configuration))
    except (NotEncodableError, RecursionError):
        return None


class NotEncodableError(Exception):
    """A value with no canonical form."""


_ATOMS = (bool, int, str, bytes, complex, type(None), type(Ellipsis))


def encode(value: Any) -> Hashable:
    """Return a hashable that is equal exactly for equal values of equal types.

    Raises:
        NotEncodableError: it has no canonical form.
    """
    kind = type(value)
    if kind in _ATOMS:
        return (kind, value)
    if kind is float:
        return (kind, value.hex())  # keeps -0.0 and 0.0 apart, and NaN equal to itself
    if isinstance(value, Mapping):
        pairs = [(encode(key), encode(item)) for key, item in value.items()]
        return (kind, tuple(sorted(pairs, key=repr)))
    if isinstance(value, (list, tuple)):
        return (kind, tuple(encode(item) for item in value))
    if isinstance(value, (set, frozenset)):
        return (kind, tuple(sorted((encode(item) for item in value), key=repr)))
    if isinstance(value, enum.Enum):
        return (kind, value.name)
    if isinstance(value, PurePath):
        return (kind, str(value))
    return _encode_by_name_or_fields(value)


def _encode_by_name_or_fields(value: Any) -> Hashable:
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return (type(value), value)  # itself: two lambdas of one name are two functions
    if dataclasses.is_dataclass(value):
        return (
            type(value),
            tuple((f.name, encode(getattr(value, f.name))) for f in dataclasses.fields(value)),
        )
    raise NotEncodableError
