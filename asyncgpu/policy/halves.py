"""Batches that were too large for a device's memory, in halves that are run again by themselves."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

__all__ = ["Half", "Halves"]


@dataclass(frozen=True, slots=True)
class Half:
    """Items that are to be run together.

    Attributes:
        ranks: which.
        runs: how often they were run, in larger batches.
    """

    ranks: Sequence[int]
    runs: int


class Halves:
    """The halves that wait to be run, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[Half] = deque()

    def __len__(self) -> int:
        """How many items wait."""
        return sum(len(half.ranks) for half in self._waiting)

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(half.ranks for half in self._waiting)

    def split(self, ranks: Sequence[int], before: Half | None) -> None:
        """Queue the halves of a batch of two or more; `before` is the half that it was itself."""
        runs = before.runs + 1 if before else 1
        middle = (len(ranks) + 1) // 2
        self._waiting += (Half(ranks[:middle], runs), Half(ranks[middle:], runs))

    def put_back(self, half: Half) -> None:
        """Queue a half that was handed out and never run; it is the next."""
        self._waiting.appendleft(half)

    def take(self) -> Half | None:
        """Remove and return the next half."""
        return self._waiting.popleft() if self._waiting else None

    def clear(self) -> list[int]:
        """Return the ranks of all that wait and keep none."""
        ranks = list(self)
        self._waiting.clear()
        return ranks
