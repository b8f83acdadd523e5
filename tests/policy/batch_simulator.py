"""Runs a `BatchPlan` in virtual time, with the true durations that the plan does not know."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count

from asyncgpu.policy.shards import Batch, BatchPlan, ItemOutcome


@dataclass
class Simulator:
    """Slots that take the true seconds, and a shell that asks for each idle one.

    Attributes:
        plan: under test.
        durations: true seconds of each item at speed 1.
        speeds: true speed of each slot.
        declared: what the plan is told of them.
        overhead: seconds that each batch takes on top.
        warm_up: seconds that a slot's first batch takes on top.
        joins: when a slot opens, if not at once.
        poison: items over which the tool raises.
        deadly: items that kill the worker.
        restart: seconds until a dead worker is back.
    """

    plan: BatchPlan
    durations: list[float]
    speeds: list[float]
    declared: list[float] | None = None
    overhead: float = 0.0
    warm_up: float = 0.0
    joins: dict[int, float] = field(default_factory=dict)
    poison: frozenset[int] = frozenset()
    deadly: frozenset[int] = frozenset()
    restart: float = 0.0

    def __post_init__(self):
        self.now = 0.0
        self.batches: list[Batch] = []
        self.outcomes: dict[int, ItemOutcome] = {}
        self.deaths: dict[int, list[int]] = {}
        self._events: list[tuple[float, int, Batch | int]] = []
        self._arrivals = count()
        self._idle: set[int] = set()
        for slot in range(len(self.speeds)):
            self._at(self.joins.get(slot, 0.0), slot)

    def run(self) -> float:
        """Return the makespan."""
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            if isinstance(event, Batch):
                self._report(event)
            else:
                self._open(event)
            # What ends at the same moment is all known before anything starts.
            if not self._events or self._events[0][0] > self.now:
                self._feed()
        assert self.plan.done
        self.plan.check_invariants()
        assert sorted(self.outcomes) == list(range(len(self.durations)))
        return self.now

    def _at(self, when, event):
        heapq.heappush(self._events, (when, next(self._arrivals), event))

    def _open(self, slot):
        self.plan.open_slot(slot, speed=self.declared[slot] if self.declared else 1.0)
        self._idle.add(slot)

    def _report(self, batch):
        if killers := self.deadly.intersection(batch.items):
            for item in killers:
                self.deaths.setdefault(item, []).append(batch.slot)
            settled = self.plan.died(batch)
            self.plan.close_slot(batch.slot)
            self._at(self.now + self.restart, batch.slot)
        else:
            self._idle.add(batch.slot)
            if self.poison.intersection(batch.items):
                settled = self.plan.failed(batch)
            else:
                settled = self.plan.succeeded(batch, self._seconds(batch))
        for item in settled.items:
            assert item not in self.outcomes
            self.outcomes[item] = settled.outcome

    def _feed(self):
        for slot in sorted(self._idle):
            if batch := self.plan.take(slot):
                self._idle.discard(slot)
                self.batches.append(batch)
                self._at(self.now + self._seconds(batch), batch)

    def _seconds(self, batch):
        first = next(other for other in self.batches if other.slot == batch.slot)
        work = sum(self.durations[item] for item in batch.items) / self.speeds[batch.slot]
        return work + self.overhead + (self.warm_up if first is batch else 0.0)
