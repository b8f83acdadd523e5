"""Trees: values in lists, tuples, dictionaries and dataclasses, one within another.

Any other object is a leaf. A part of the tree in which no leaf changes is passed on as it is.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from ..ports import Leaf

__all__ = ["leaves", "rebuilt"]


def leaves(tree: object, place: str) -> Iterator[Leaf]:
    """Yield the leaves of a tree, each with its place.

    Args:
        tree: what to walk through.
        place: how to call the tree itself.
    """
    children = _children(tree)
    if children is None:
        yield Leaf(place, tree)
        return
    for key, child in children:
        yield from leaves(child, place + _step(tree, key))


def rebuilt(tree: Any, new_leaves: Iterator[object]) -> Any:
    """Return the tree with other leaves, in the order in which `leaves` yields them.

    Containers are copied, never written to; a dataclass is copied without calling it again.
    """
    children = _children(tree)
    if children is None:
        return next(new_leaves)
    changed = {}
    for key, child in children:
        new = rebuilt(child, new_leaves)
        if new is not child:
            changed[key] = new
    return _copy_with(tree, changed) if changed else tree


def _children(tree: Any) -> list[tuple[Any, Any]] | None:
    """Return each child with its index, key or field; None: `tree` is a leaf."""
    if isinstance(tree, (list, tuple)):
        return list(enumerate(tree))
    if isinstance(tree, dict):
        return list(tree.items())
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        # A field that the constructor does not set may be missing.
        return [(name, getattr(tree, name)) for name in names if hasattr(tree, name)]
    return None


def _step(tree: object, key: object) -> str:
    return f"[{key!r}]" if isinstance(tree, (list, tuple, dict)) else f".{key}"


def _copy_with(tree: Any, changed: dict[Any, Any]) -> Any:
    if isinstance(tree, tuple):
        values = [changed.get(index, value) for index, value in enumerate(tree)]
        make: Callable[[list[Any]], Any] = getattr(tree, "_make", type(tree))
        return make(values)
    other = copy.copy(tree)
    for key, value in changed.items():
        if isinstance(tree, (list, dict)):
            other[key] = value
        else:
            # A frozen one, too.
            object.__setattr__(other, key, value)
    return other
