"""How large the next micro-batch of a run may be.

Large batches save messages; small ones bring results early, balance better and lose less when a
worker dies. A tool's `max_batch` makes the batch itself the unit of work: every slot gets full
batches, and at the end the slots share what is left equally, in rounds of one batch for each slot
(as in "factoring": S. Hummel, E. Schonberg and L. Flynn, Communications of the ACM 35, 1992).
Without it, four rules hold at once:

* a batch lasts about `target_seconds`, by the rate measured in this run;
* it takes at most half of the slot's fair share of what is left, so that the last batches are
  small and all slots end together (guided self-scheduling: C. Polychronopoulos and D. Kuck, IEEE
  Transactions on Computers C-36, 1987);
* it need not be shorter than `grain_seconds`: the message would cost more than balance gains;
* it holds at most `_GROWTH` times the items of the largest batch that came back so far, the first
  being one item, so that a rate misjudged on little evidence cannot swallow the run.
"""

from __future__ import annotations

import sys
from math import ceil, inf
from typing import NamedTuple

from ..errors import InvalidRequest

__all__ = ["BatchLimit", "BatchSizer"]

_GROWTH = 8
# Weight of the newest batch in the rate: a first batch that also warmed the model up, or costs
# that do not follow time, are forgotten within a few batches.
_NEWEST = 0.5


class BatchLimit(NamedTuple):
    """A batch holds at least one item, and more only within both limits."""

    items: int
    cost: float


class BatchSizer:
    """The rate of one run, and the sizes that follow from it."""

    def __init__(
        self,
        *,
        max_batch: int | None,
        target_seconds: float,
        grain_seconds: float,
        seconds_per_cost: float | None,
    ) -> None:
        if max_batch is not None and (isinstance(max_batch, bool) or max_batch < 1):
            raise InvalidRequest(f"max_batch: {max_batch!r} is not a number of items")
        if not 0 < target_seconds < inf:
            raise InvalidRequest(f"target_seconds: {target_seconds!r} is not finite and above 0")
        if not 0 <= grain_seconds < inf:
            raise InvalidRequest(f"grain_seconds: {grain_seconds!r} is not finite and at least 0")
        if seconds_per_cost is not None and not 0 <= seconds_per_cost < inf:
            raise InvalidRequest(f"seconds_per_cost: {seconds_per_cost!r} is not a rate")
        self._by_time = max_batch is None
        self._most = max_batch or sys.maxsize
        self._target = target_seconds
        self._grain = grain_seconds
        self._rate = seconds_per_cost
        self._largest = 0
        self._round = (0, 0.0)
        self._round_left = 0

    def limit(self, items: int, cost: float, *, share: float, speed: float) -> BatchLimit:
        """Return the limit for a slot that asks now.

        Args:
            items: how many items are queued in the whole run.
            cost: what they cost together.
            share: the part of all open slots' speed that this slot has, in (0, 1].
            speed: the slot's speed.
        """
        if not self._by_time:
            return self._level(items, cost, share)
        if self._rate is None:
            return BatchLimit(1, 0.0)
        by_time = self._target * speed / self._rate if self._rate else inf
        by_grain = self._grain * speed / self._rate if self._rate else inf
        by_balance = max(cost * share / 2, by_grain)
        grains = by_grain * items / cost if cost else 0.0
        most = min(self._most, self._largest * _GROWTH or items)
        count = max(ceil(min(max(items * share / 2, grains), most)), 1)
        return BatchLimit(count, min(by_time, by_balance))

    def handed_out(self, slots: int) -> None:
        """Count a batch; one for each open slot makes a round."""
        self._round_left = (self._round_left or slots) - 1

    def measured(self, items: int, cost: float, seconds: float) -> None:
        """Learn from a batch that came back; `seconds` as a slot of speed 1 would have taken."""
        self._largest = max(self._largest, items)
        if cost and (newest := seconds / cost) < inf:
            old = newest if self._rate is None else self._rate
            self._rate = old + (newest - old) * _NEWEST

    def too_large(self, items: int) -> None:
        """Learn that so many items did not fit into a slot's memory together."""
        self._most = min(self._most, max(items // 2, 1))

    def _level(self, items: int, cost: float, share: float) -> BatchLimit:
        """Return the slot's fair share of what was left when the round began."""
        if not self._round_left:
            self._round = (items, cost)
        items, cost = self._round
        fair = max(ceil(items * share), 1)
        return BatchLimit(self._most if cost else min(fair, self._most), fair * cost / items)
