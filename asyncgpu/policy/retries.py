"""Which items must run by themselves, and when an item is given up.

A batch that fails or dies does not say which of its items is to blame, so each of them becomes a
*suspect* and is run alone. The tool raising over a single item is that item's outcome. A worker
dying under a single item may be chance, so the item is tried again, elsewhere if there is an
elsewhere, until more than `retries` workers have died; then it is quarantined. Being run again
because of a batch-mate counts for nothing.

A suspect may go to any slot, but first to one whose worker did not die under it. An item that has
broken *by itself* goes last of all, because it may cost one more worker, and to a slot that it is
to avoid only if no other slot is open.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from ..errors import InvalidRequest

__all__ = ["Suspect", "Suspects"]


@dataclass(slots=True)
class Suspect:
    """An item that is to be run alone.

    Attributes:
        rank: the item.
        runs: how often it was run and has not settled.
        deaths: how many workers died while they ran it alone.
        alone: whether it has broken by itself.
        avoid: the slots that it should not go to.
    """

    rank: int
    runs: int = 0
    deaths: int = 0
    alone: bool = False
    avoid: frozenset[int] = frozenset()


class Suspects:
    """The items that wait to be run alone."""

    def __init__(self, retries: int) -> None:
        if isinstance(retries, bool) or retries < 0:
            raise InvalidRequest(f"retries: {retries!r} is not a number of further tries")
        self._retries = retries
        self._from_batches = _Lane()
        self._from_alone = _Lane()

    def __len__(self) -> int:
        return len(self._from_batches) + len(self._from_alone)

    def __iter__(self) -> Iterator[int]:
        yield from self._from_batches
        yield from self._from_alone

    def accuse(self, ranks: Iterable[int], avoid: frozenset[int]) -> None:
        """Queue the items of a broken batch; `avoid` holds the slot it died on, if it died."""
        for rank in ranks:
            self._from_batches.add(Suspect(rank, runs=1, avoid=avoid))

    def put_back(self, suspect: Suspect) -> None:
        """Queue a suspect, for the first time or again."""
        (self._from_alone if suspect.alone else self._from_batches).add(suspect)

    def died_alone(self, suspect: Suspect, slot: int) -> bool:
        """Count a death; return whether the item is to be tried again."""
        suspect.deaths += 1
        return suspect.deaths <= self._retries and self._again(suspect, {slot})

    def did_not_fit(
        self, suspect: Suspect, slots: Collection[int], open_slots: Collection[int]
    ) -> bool:
        """Keep the item from these slots; return whether another open slot may try it."""
        nowhere = _broken_on(suspect, slots).issuperset(open_slots)
        return not nowhere and self._again(suspect, slots)

    def take_first(self, slot: int) -> Suspect | None:
        """Return a suspect that `slot` should run before all other work."""
        return self._from_batches.take(lambda avoid: slot not in avoid)

    def take_last(self, slot: int, open_slots: Collection[int]) -> Suspect | None:
        """Return a suspect that `slot` should run when it has no other work."""
        return self._from_batches.take(lambda _: True) or self._from_alone.take(
            lambda avoid: slot not in avoid or avoid.issuperset(open_slots)
        )

    def clear(self) -> list[int]:
        """Return the ranks of all that wait and keep none."""
        ranks = list(self)
        self._from_batches, self._from_alone = _Lane(), _Lane()
        return ranks

    def _again(self, suspect: Suspect, avoid: Collection[int]) -> bool:
        suspect.runs += 1
        suspect.avoid = _broken_on(suspect, avoid)
        suspect.alone = True
        self._from_alone.add(suspect)
        return True


def _broken_on(suspect: Suspect, slots: Collection[int]) -> frozenset[int]:
    """Return where the item has broken by itself; that it broke beside others says little."""
    return (suspect.avoid if suspect.alone else frozenset()).union(slots)


class _Lane:
    """Suspects, first come first served among those that avoid the same slots.

    There are few different sets of slots to avoid, however many suspects there are.
    """

    def __init__(self) -> None:
        self._groups: dict[frozenset[int], deque[Suspect]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def __iter__(self) -> Iterator[int]:
        return (suspect.rank for group in self._groups.values() for suspect in group)

    def add(self, suspect: Suspect) -> None:
        self._groups.setdefault(suspect.avoid, deque()).append(suspect)

    def take(self, suits: Callable[[frozenset[int]], bool]) -> Suspect | None:
        """Remove and return the first suspect whose slots to avoid suit the asker."""
        for avoid, group in self._groups.items():
            if suits(avoid):
                suspect = group.popleft()
                if not group:
                    del self._groups[avoid]
                return suspect
        return None
