"""A queue of ranks in the order of their cost, open at both ends."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterable, Iterator
from math import isclose

from .work_order import WorkOrder

__all__ = ["RankQueue"]

# What is left beside a cost so much larger has lost about half of its digits.
_DIGITS = 1e-7


class RankQueue:
    """Ranks from the costliest to the cheapest, and what they cost together."""

    __slots__ = ("_order", "_ranks", "cost")

    def __init__(self, order: WorkOrder) -> None:
        self._order = order
        self._ranks: deque[int] = deque()
        self.cost = 0.0

    def __len__(self) -> int:
        return len(self._ranks)

    def __iter__(self) -> Iterator[int]:
        return iter(self._ranks)

    @property
    def head(self) -> int:
        return self._ranks[0]

    @property
    def tail(self) -> int:
        return self._ranks[-1]

    def push(self, rank: int) -> None:
        """Add a rank at its place, which is mostly the tail."""
        insort(self._ranks, rank, lo=0 if self._ranks and rank < self._ranks[-1] else len(self))
        self.cost += self._order.cost_at(rank)

    def pop_head(self) -> int:
        return self._without(self._ranks.popleft())

    def pop_tail(self) -> int:
        return self._without(self._ranks.pop())

    def merge(self, ranks: Iterable[int]) -> None:
        """Add any ranks, each at its place."""
        self._ranks = deque(sorted([*self._ranks, *ranks]))
        self.cost = self._order.cost(self._ranks)

    def clear(self) -> list[int]:
        """Return every rank and keep none."""
        ranks = list(self._ranks)
        self._ranks.clear()
        self.cost = 0.0
        return ranks

    def _without(self, rank: int) -> int:
        cost = self._order.cost_at(rank)
        left = self.cost - cost
        # A giant takes the digits of the small ones with it, and an empty queue costs nothing.
        if not self._ranks or left < cost * _DIGITS:
            left = self._order.cost(self._ranks)
        self.cost = left
        return rank

    def check_invariants(self) -> None:
        """Raise AssertionError unless the ranks are in order and the cost is their sum."""
        ranks = list(self._ranks)
        assert ranks == sorted(ranks), "the queue is out of order"
        # Items that have left may have been giants: rounding is measured against all there is.
        whole = self._order.cost(range(len(self._order)))
        assert isclose(self.cost, self._order.cost(ranks), abs_tol=1e-9 * whole)
