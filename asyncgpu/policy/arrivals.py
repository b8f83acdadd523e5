"""The run of a source: items are admitted while others run, and the settled ones are forgotten.

The rules are those of every run, over what has been admitted and is still queued: the costliest of
these goes next. Nothing is kept of an item that has settled but a count, so a run may be endless.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from ..errors import InvalidRequest
from .costs import read_cost
from .run_plan import RunPlan

__all__ = ["ArrivalOrder", "ArrivalPlan"]

# However many of these are queued, their sum is finite.
_LARGEST = 1e280
_NUMBER_BITS = 64
_NUMBER = (1 << _NUMBER_BITS) - 1
_BITS = struct.Struct("<Q")
_FLOAT = struct.Struct("<d")


class ArrivalPlan(RunPlan):
    """The state machine of one pool run to which items are admitted over time."""

    def __init__(
        self,
        *,
        max_batch: int | None = None,
        retries: int = 1,
        target_seconds: float = 0.05,
        grain_seconds: float = 0.001,
        seconds_per_cost: float | None = None,
    ) -> None:
        """Plan a run that has no items yet; the parameters are those of `RunPlan`."""
        super().__init__(
            ArrivalOrder(),
            max_batch=max_batch,
            retries=retries,
            target_seconds=target_seconds,
            grain_seconds=grain_seconds,
            seconds_per_cost=seconds_per_cost,
        )
        self.admitted = 0
        """How many items have come so far."""
        self._complete = False

    @property
    def done(self) -> bool:
        """Whether no more items come, and every item has its outcome."""
        return self._complete and not self._unsettled

    def admit(self, cost: float = 1.0) -> int:
        """Queue one more item; return its number, counted from 0.

        Raises:
            InvalidRequest: the cost is not finite, at least 0 and at most 1e280.
            InvalidTransition: the run was completed or cancelled.
        """
        if self._complete or self._cancelled:
            raise self._impossible("admit", f"item {self.admitted}")
        number = self.admitted
        cost = read_cost(number, cost) + 0.0  # -0.0 becomes 0.0
        if cost > _LARGEST:
            raise InvalidRequest(f"cost of item {number}: {cost!r}; use a larger unit")
        self.admitted += 1
        self._unsettled += 1
        self._backlog.admit(rank_of(cost, number))
        return number

    def complete(self) -> None:
        """No more items come. Idempotent."""
        self._complete = True
        self._history.append(("complete", None))


class ArrivalOrder:
    """A `WorkOrder` that remembers no item, because a rank says all there is to know.

    In a rank the bits of the cost stand above the number of the item. Those of a float that is not
    negative sort as the float does (IEEE 754); they are inverted, so that the costliest comes
    first, and among equal costs the one that came first.
    """

    def __len__(self) -> int:
        """No rank is known beforehand."""
        return 0

    def items(self, ranks: Sequence[int]) -> Sequence[int]:
        return tuple(rank & _NUMBER for rank in ranks)

    def cost_at(self, rank: int) -> float:
        return _cost_of(rank >> _NUMBER_BITS)

    def cost(self, ranks: Sequence[int]) -> float:
        return sum(map(self.cost_at, ranks))

    def fit(self, start: int, cost: float) -> int:
        return 0


def rank_of(cost: float, number: int) -> int:
    """Return the rank of item `number`, which costs `cost`."""
    (bits,) = _BITS.unpack(_FLOAT.pack(cost))
    rank: int = (_NUMBER - bits) << _NUMBER_BITS | number
    return rank


@lru_cache(maxsize=4096)
def _cost_of(bits: int) -> float:
    """Return the cost in a rank; asked for several times for each item, and often the same."""
    cost: float = _FLOAT.unpack(_BITS.pack(_NUMBER - bits))[0]
    return cost
