"""What makes two answers the same answer: the tool, its configuration, and the item, all typed.

A key must never be equal for two items with different answers. So what it is made of is encoded as
a tool's configuration is (`identity.encode`): ``1``, ``True``, ``1.0`` and ``"1"`` stay four items,
inside tuples too. An item that has no such encoding, a tensor for example, may be hashable and
still change, so it is not kept, unless the tool says with a `key` of its own what it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from .identity import NotEncodableError, encode
from .items import key_of
from .tool import Tool, has_own_key

__all__ = ["owner_of", "result_keys"]


def result_keys(tool: Tool) -> Callable[[int, Any], Hashable | None]:
    """Return what gives an item its key, asked with its index; None: its answer is not kept.

    Raises:
        InvalidRequest: the tool's `key` raised, or is not hashable.
    """
    owner = owner_of(tool)
    own_key = has_own_key(tool)

    def key_for(index: int, item: Any) -> Hashable | None:
        key = key_of(tool, index, item)
        if key is None:
            return None
        if not own_key:
            key = item
        try:
            return (owner, type(item), encode(key))
        except (NotEncodableError, RecursionError):
            return (owner, type(item), key) if own_key else None

    return key_for


def owner_of(tool: Tool) -> Hashable:
    """Return what the keys of a tool's answers begin with."""
    return tool.lasting_identity or _Instance(tool)


class _Instance:
    """A tool that is equal to no other; kept alive by its keys, so that none comes to be it."""

    __slots__ = ("_tool",)

    def __init__(self, tool: Tool) -> None:
        self._tool = tool

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Instance) and other._tool is self._tool

    def __hash__(self) -> int:
        return id(self._tool)
