"""Equal items are computed once: which items of a call are the same, and who answers for whom."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ..errors import InvalidRequest

__all__ = ["Merged", "merge"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Merged:
    """The different items of a call, and the places each of them stands in.

    Attributes:
        firsts: for each unique item, the index in the call where it stands first, ascending.
        owners: for each index in the call, the number of the unique item that answers for it.
        repeats: the further places of the unique items that have any, ascending.
    """

    firsts: Sequence[int]
    owners: Sequence[int]
    repeats: dict[int, list[int]] = field(default_factory=dict)

    def places(self, unique: int) -> Sequence[int]:
        """Return every index in the call that the unique item `unique` answers for."""
        return (self.firsts[unique], *self.repeats.get(unique, ()))

    def expand(self, answers: Sequence[T]) -> list[T]:
        """Return one answer for each index in the call. Repeats get the same object.

        Raises:
            InvalidRequest: there is not one answer for each unique item.
        """
        if len(answers) != len(self.firsts):
            raise InvalidRequest(f"{len(answers)} answers for {len(self.firsts)} unique items")
        if not self.repeats:
            return list(answers)
        return list(map(answers.__getitem__, self.owners))


def merge(keys: Sequence[Hashable | None]) -> Merged:
    """Merge the items whose keys are equal; an item whose key is None is like no other.

    Raises:
        InvalidRequest: a key cannot be hashed; the message names its index.
    """
    try:
        distinct = len(dict.fromkeys(keys))
    except TypeError:
        raise InvalidRequest(_unhashable(keys)) from None
    unmerged = keys.count(None)
    if distinct + max(unmerged - 1, 0) == len(keys):
        return Merged(range(len(keys)), range(len(keys)))
    return _merge_repeats(keys)


def _merge_repeats(keys: Sequence[Hashable | None]) -> Merged:
    firsts: list[int] = []
    owners: list[int] = []
    repeats: dict[int, list[int]] = {}
    seen: dict[Hashable, int] = {}
    unique = 0
    for index, key in enumerate(keys):
        owner = unique if key is None else seen.setdefault(key, unique)
        owners.append(owner)
        if owner == unique:
            firsts.append(index)
            unique += 1
        else:
            repeats.setdefault(owner, []).append(index)
    return Merged(firsts, owners, repeats)


def _unhashable(keys: Sequence[object]) -> str:
    for index, key in enumerate(keys):
        try:
            hash(key)
        except TypeError as error:
            return f"key of item {index}: {error}; give None to leave the item unmerged"
    return "a key cannot be hashed"
