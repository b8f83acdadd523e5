"""What a caller hands in: checked, counted, keyed and priced before anything is started."""

from __future__ import annotations

from collections.abc import AsyncIterable, Hashable, Iterator
from typing import Any

from ..errors import InvalidRequest
from .tool import Tool, has_own_cost, has_own_key

__all__ = [
    "check_tool",
    "cost_of",
    "costs_of",
    "is_source",
    "key_of",
    "keys_of",
    "list_items",
]

# Exact types whose equality means "the same item": no NaN, no -0.0, no subclass with other ideas.
_PLAIN = frozenset({int, str, bytes})


def check_tool(tool: object) -> Tool:
    """Return `tool`, if it is one.

    Raises:
        InvalidRequest: it is not; the message says what to write.
    """
    if isinstance(tool, Tool):
        return tool
    if isinstance(tool, type) and issubclass(tool, Tool):
        raise InvalidRequest(f"{tool.__name__} is a class; pass an instance: {tool.__name__}()")
    raise InvalidRequest(f"{tool!r} is not a Tool; subclass asyncgpu.Tool or use @asyncgpu.tool")


def is_source(items: object) -> bool:
    """Return whether `items` come one by one; False: they are all there, as in a list."""
    return isinstance(items, (AsyncIterable, Iterator))


def list_items(items: Any) -> list[Any]:
    """Return `items` as a list of their own.

    Raises:
        InvalidRequest: a string or bytes, which would be taken apart into characters, a mapping,
            or something that cannot be iterated over.
    """
    if isinstance(items, (str, bytes, bytearray, dict)):
        raise InvalidRequest(
            f"items: a {type(items).__name__} is not a list of items; write [item] for one"
        )
    try:
        return list(items)
    except TypeError:
        raise InvalidRequest(f"items: {items!r} is not a list of items") from None


def costs_of(tool: Tool, items: list[Any]) -> list[float] | None:
    """Return the tool's estimate for each item; None: all the same.

    Raises:
        InvalidRequest: the tool's `cost` raised; the message names the item.
    """
    if not has_own_cost(tool):
        return None
    return [cost_of(tool, index, item) for index, item in enumerate(items)]


def cost_of(tool: Tool, index: int, item: Any) -> float:
    """Return the tool's estimate for one item.

    Raises:
        InvalidRequest: the tool's `cost` raised; the message names the item.
    """
    try:
        return tool.cost(item)
    except Exception as error:
        raise InvalidRequest(f"{tool.name}.cost raised for item {index}: {error!r}") from error


def keys_of(tool: Tool, items: list[Any]) -> list[Hashable | None]:
    """Return what makes each item equal to another; None: to none.

    Raises:
        InvalidRequest: the tool's `key` raised or is not hashable; the message names the item.
    """
    if not has_own_key(tool):
        # Items of one plain type are their own keys, which is most batches, and ten times faster.
        kinds = set(map(type, items))
        if len(kinds) == 1 and kinds <= _PLAIN:
            return list(items)
    return [key_of(tool, index, item) for index, item in enumerate(items)]


def key_of(tool: Tool, index: int, item: Any) -> Hashable | None:
    """Return what makes one item equal to another; None: to none.

    Raises:
        InvalidRequest: the tool's `key` raised or is not hashable; the message names the item.
    """
    try:
        key = tool.key(item)
        hash(key)
    except Exception as error:
        raise InvalidRequest(f"{tool.name}.key failed for item {index}: {error!r}") from error
    return key
