"""The order in which the items of one run are handed out: the costliest first.

Everything else in a batch plan speaks of *ranks*: rank 0 is the costliest item, and equal costs
keep the caller's order. Fresh work is then one range of ranks, whose cost is a difference of two
sums and whose items are one slice, whatever the number of items.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from ..errors import InvalidRequest
from .costs import are_uniform, read_costs

__all__ = ["WorkOrder", "work_order"]

# Sums of costs round; a limit that a sum misses by less than this still holds it.
_SLACK = 1e-9


class WorkOrder(Protocol):
    """Ranks, and what stands behind them."""

    def __len__(self) -> int: ...

    def items(self, ranks: Sequence[int]) -> Sequence[int]:
        """Return the caller's indices of the items of these ranks."""

    def cost_at(self, rank: int) -> float:
        """Return the cost of one rank."""

    def cost(self, ranks: Sequence[int]) -> float:
        """Return the cost of these ranks; of a range, at once."""

    def fit(self, start: int, cost: float) -> int:
        """Return how many ranks from `start` on cost no more than `cost` together."""


def work_order(costs: Sequence[float] | None, count: int) -> WorkOrder:
    """Put `count` items in order.

    Args:
        costs: one for each item; None: they all cost 1.
        count: how many items there are.

    Raises:
        InvalidRequest: a cost is not finite and at least 0, or there is not one for each item.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InvalidRequest(f"count: {count!r} is not a number of items")
    if costs is None:
        return _UniformOrder(count, 1.0)
    work = read_costs(costs)
    if len(work) != count:
        raise InvalidRequest(f"{len(work)} costs for {count} items")
    if are_uniform(work):
        # Items that are all said to cost nothing still take their time.
        return _UniformOrder(count, (work[0] if work else 0.0) or 1.0)
    return _CostliestFirst(work)


class _UniformOrder:
    """All items cost the same: rank and index are one."""

    def __init__(self, count: int, unit: float) -> None:
        self._count = count
        self._unit = unit

    def __len__(self) -> int:
        return self._count

    def items(self, ranks: Sequence[int]) -> Sequence[int]:
        return ranks if isinstance(ranks, range) else tuple(ranks)

    def cost_at(self, rank: int) -> float:
        return self._unit

    def cost(self, ranks: Sequence[int]) -> float:
        return len(ranks) * self._unit

    def fit(self, start: int, cost: float) -> int:
        left = self._count - start
        limit = cost / self._unit * (1 + _SLACK)
        return left if limit >= left else max(int(limit), 0)


class _CostliestFirst:
    """Costs differ: a sorted list of indices, and sums over its tail."""

    def __init__(self, work: Sequence[float]) -> None:
        self._work = work
        self._order = tuple(sorted(range(len(work)), key=work.__getitem__, reverse=True))
        # `_cheapest[k]` is the cost of the k cheapest items. Summing from the cheap end keeps the
        # cost of the tail exact beside a giant at the head.
        ascending = map(work.__getitem__, reversed(self._order))
        self._cheapest = list(accumulate(ascending, initial=0.0))

    def __len__(self) -> int:
        return len(self._order)

    def items(self, ranks: Sequence[int]) -> Sequence[int]:
        if isinstance(ranks, range):
            return self._order[ranks.start : ranks.stop]
        return tuple(map(self._order.__getitem__, ranks))

    def cost_at(self, rank: int) -> float:
        return self._work[self._order[rank]]

    def cost(self, ranks: Sequence[int]) -> float:
        if not isinstance(ranks, range):
            return sum(map(self.cost_at, ranks))
        count = len(self._order)
        return self._cheapest[count - ranks.start] - self._cheapest[count - ranks.stop]

    def fit(self, start: int, cost: float) -> int:
        left = len(self._order) - start
        rest = self._cheapest[left] - cost * (1 + _SLACK)
        return left - bisect_left(self._cheapest, rest, 0, left)
