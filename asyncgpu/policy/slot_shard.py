"""What one slot holds of one run: its queue, its load, and how fast it has proved to be."""

from __future__ import annotations

from math import inf

from .batch import SlotStats
from .rank_queue import RankQueue
from .work_order import WorkOrder

__all__ = ["SlotShard"]

# So many items are needed before a slot's measured time weighs as much as the speed it was opened
# with. Costs are guesses: a few items differ far more in time than two equal GPUs do, and a slot
# wrongly thought slow would be kept from helping at the end.
_DOUBT = 32
# A smaller difference is taken for noise. Equal slots stay exactly equal, so that none of them
# keeps work for itself that another one could start at once.
_NOISE = 1.5
# No two slots of one tool are further apart than this; a stopped clock may say so.
_WIDEST = 100.0
# Items, cost, seconds.
_NOTHING = (0, 0.0, 0.0)


class SlotShard:
    """One slot's part in a run.

    Attributes:
        slot: the slot's number.
        declared: its speed against the other slots, as it was opened.
        speed: the same, corrected by what was measured.
        queue: ranks kept for this slot, because it should finish them first.
        flying: cost of each batch that is with the worker, by batch id.
        items: how many items it has finished, for better or worse.
        seconds: how long its finished batches took.
    """

    def __init__(self, slot: int, order: WorkOrder) -> None:
        self.slot = slot
        self.declared = 1.0
        self.speed = 1.0
        self.queue = RankQueue(order)
        self.flying: dict[int, float] = {}
        self._flying_cost = 0.0
        self.batches = 0
        self.steals = 0
        self.retries = 0
        self.items = 0
        self.seconds = 0.0
        self._measured = _NOTHING

    @property
    def load(self) -> float:
        """Cost of what is queued here and of what is with the worker.

        Without a clock nobody knows how much of a batch is done, so all of it counts. This errs
        towards the slot that asks for work, which is the one that is idle.
        """
        return self.queue.cost + self._flying_cost

    def finish(self, cost: float = 0.0) -> float:
        """Return when this slot would be through with its load and `cost` on top."""
        return (self.queue.cost + self._flying_cost + cost) / self.speed

    def start(self, batch: int, cost: float) -> None:
        """Charge a batch that was handed to the worker."""
        self.flying[batch] = cost
        self._flying_cost = sum(self.flying.values())
        self.batches += 1

    def stop(self, batch: int) -> None:
        """Lift the charge of a batch that was reported."""
        del self.flying[batch]
        self._flying_cost = sum(self.flying.values())

    def declare(self, speed: float) -> None:
        """Set the speed; what was measured against another declared speed is void."""
        if speed != self.declared:
            self._measured = _NOTHING
            self.declared = self.speed = speed

    def measured(self, items: int, cost: float, seconds: float) -> None:
        """Count a batch of first runs, for the slot's speed."""
        so_far = self._measured
        self._measured = (so_far[0] + items, so_far[1] + cost, so_far[2] + seconds)

    def judge(self, seconds_per_cost: float) -> None:
        """Set the speed from what was measured here and in the whole run at speed 1."""
        items, cost, seconds = self._measured
        expected = cost * seconds_per_cost / self.declared
        if 0 < expected < inf and 0 < seconds < inf:
            ratio = min(max(expected / seconds, 1 / _WIDEST), _WIDEST)
            correction = ratio ** (items / (items + _DOUBT))
            steady = 1 / _NOISE < correction < _NOISE
            self.speed = self.declared if steady else self.declared * correction

    def stats(self) -> SlotStats:
        return SlotStats(
            batches=self.batches,
            items=self.items,
            seconds=self.seconds,
            steals=self.steals,
            retries=self.retries,
            speed=self.speed,
        )

    def check_invariants(self) -> None:
        """Raise AssertionError unless the queue and the load are right."""
        self.queue.check_invariants()
        assert self.load == self.queue.cost + sum(self.flying.values())
        assert self.speed > 0
