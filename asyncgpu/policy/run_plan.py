"""One run of a pool, whichever way its items come: which slot gets which of them next.

`RunPlan` is a state machine without a clock. The shell opens slots as workers get ready, asks
`take` for each idle slot, and reports how every batch ended. An item is always in one place::

    queued ──take──▶ in flight ──succeeded, failed, died──▶ settled
      ▲ │                │                                     ▲
      │ └─────cancel─────┼─────────────────────────────────────┘
      └──returned, or to be run alone

`take` may answer None while another slot is better for what is left, so the shell asks again for
each idle slot after every input. As long as a slot is open and items are left, a batch is in
flight or one of the open slots gets one. A slot is open when it will ask as soon as it can: work
is kept for a fast slot on that understanding.

`shards.BatchPlan` is the run of a list, `arrivals.ArrivalPlan` that of items that come over time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

from ..errors import InvalidRequest, InvalidTransition
from .backlog import Backlog
from .batch import Batch, ItemOutcome, PlanStats, Settled
from .halves import Half, Halves
from .micro_batch import BatchSizer
from .retries import Suspect, Suspects
from .slot_shard import SlotShard
from .work_order import WorkOrder

__all__ = ["RunPlan"]

_HISTORY = 20


class RunPlan:
    """The state machine of one pool run.

    Every input raises `InvalidTransition`, and changes nothing, when it is impossible: a slot that
    is not open, a batch that is not in flight.
    """

    def __init__(
        self,
        order: WorkOrder,
        *,
        max_batch: int | None = None,
        retries: int = 1,
        target_seconds: float = 0.05,
        grain_seconds: float = 0.001,
        seconds_per_cost: float | None = None,
    ) -> None:
        """Plan a run.

        Args:
            order: the items, by rank.
            max_batch: the most items that a batch may hold; None: as many as the rate allows.
            retries: how often an item is tried again whose worker died while it ran alone.
            target_seconds: how long a batch should last, where `max_batch` does not say.
            grain_seconds: a batch shorter than this is not worth its message.
            seconds_per_cost: the rate of an earlier run, at speed 1; None: start with one item.

        Raises:
            InvalidRequest: a value means nothing; the message names it.
        """
        self._order = order
        self._sizer = BatchSizer(
            max_batch=max_batch,
            target_seconds=target_seconds,
            grain_seconds=grain_seconds,
            seconds_per_cost=seconds_per_cost,
        )
        self._suspects = Suspects(retries)
        self._halves = Halves()
        self._backlog = Backlog(order)
        self._shards: dict[int, SlotShard] = {}
        self._flights: dict[int, _Flight] = {}
        self._counts = dict.fromkeys(ItemOutcome, 0)
        self._unsettled = len(order)
        self._cancelled = False
        self._next_id = 0
        self._measured_cost = 0.0
        self._measured_seconds = 0.0
        self._history: deque[tuple[str, object]] = deque(maxlen=_HISTORY)

    @property
    def done(self) -> bool:
        """Whether every item has its outcome."""
        return not self._unsettled

    @property
    def queued(self) -> int:
        """How many items are not handed out, or are to be run again."""
        return len(self._backlog) + len(self._suspects) + len(self._halves)

    def open_slot(self, slot: int, *, speed: float = 1.0) -> None:
        """Let a slot take part, at any time, also again.

        Args:
            slot: its number.
            speed: its speed against the other slots, as far as known; an earlier run's
                statistics tell.

        Raises:
            InvalidRequest: the speed is not finite and above 0.
        """
        if isinstance(speed, bool) or not (isfinite(speed) and speed > 0):
            raise InvalidRequest(f"speed of slot {slot}: {speed!r} is not finite and above 0")
        if slot in self._backlog.open:
            raise self._impossible("open_slot", slot)
        shard = self._shards.get(slot)
        if shard is None:
            shard = self._shards[slot] = SlotShard(slot, self._order)
        shard.declare(speed)
        self._backlog.open_slot(shard)
        self._history.append(("open_slot", slot))

    def close_slot(self, slot: int) -> None:
        """Let a slot leave; its queue goes to the others, its batches in flight still report."""
        if slot not in self._backlog.open:
            raise self._impossible("close_slot", slot)
        self._backlog.close_slot(slot)
        self._history.append(("close_slot", slot))

    def take(self, slot: int) -> Batch | None:
        """Return the slot's next batch; None: there is nothing for it now."""
        shard = self._backlog.open.get(slot)
        if shard is None:
            raise self._impossible("take", slot)
        if self._cancelled:
            return None
        suspect = self._suspects.take_first(slot)
        if suspect is None:
            if half := self._halves.take():
                return self._hand_out(shard, half.ranks, half=half)
            if ranks := self._draw(shard):
                return self._hand_out(shard, ranks)
            suspect = self._suspects.take_last(slot, self._backlog.open)
            if suspect is None:
                return None
        return self._hand_out(shard, range(suspect.rank, suspect.rank + 1), suspect)

    def succeeded(self, batch: Batch, seconds: float) -> Settled:
        """Settle the items of a batch that came back after `seconds`.

        Raises:
            InvalidRequest: the seconds are not finite and at least 0.
        """
        if not (isfinite(seconds) and seconds >= 0):
            raise InvalidRequest(f"batch {batch.id}: {seconds!r} seconds")
        flight = self._land("succeeded", batch)
        self._measure(flight, seconds)
        return self._settle(flight, ItemOutcome.SUCCEEDED)

    def failed(self, batch: Batch, *, unfit: Collection[int] = ()) -> Settled:
        """The tool raised: a single item has failed, several are to be run alone.

        Args:
            batch: which.
            unfit: when it was out of memory: the slots with no more of it than this one. Several
                items are run again in halves, and later batches are smaller; a single one has not
                failed while another slot is open.
        """
        flight = self._land("failed", batch)
        if not batch.alone:
            if unfit and not self._cancelled:
                return self._halve(flight)
            return self._accuse(flight, ItemOutcome.FAILED, frozenset())
        if unfit and not self._cancelled:
            barred = {*unfit, batch.slot}
            if self._suspects.did_not_fit(flight.as_suspect(), barred, self._backlog.open):
                return Settled(ItemOutcome.FAILED, ())
        return self._settle(flight, ItemOutcome.FAILED)

    def died(self, batch: Batch) -> Settled:
        """The worker died while it ran the batch. The slot stays open until it is closed."""
        flight = self._land("died", batch)
        if not batch.alone:
            return self._accuse(flight, ItemOutcome.DIED, frozenset({batch.slot}))
        if not self._cancelled and self._suspects.died_alone(flight.as_suspect(), batch.slot):
            return Settled(ItemOutcome.DIED, ())
        return self._settle(flight, ItemOutcome.DIED)

    def returned(self, batch: Batch) -> Settled:
        """The batch was never run, or was taken from its worker for no fault of its items."""
        flight = self._land("returned", batch)
        if self._cancelled:
            return self._settle(flight, ItemOutcome.CANCELLED)
        if flight.suspect:
            self._suspects.put_back(flight.suspect)
        elif flight.half:
            self._halves.put_back(flight.half)
        else:
            self._backlog.put_back(flight.ranks)
        return Settled(ItemOutcome.CANCELLED, ())

    def cancel(self) -> Settled:
        """Settle everything queued; batches in flight settle when they are reported."""
        self._cancelled = True
        self._history.append(("cancel", None))
        ranks = self._backlog.clear() + self._suspects.clear() + self._halves.clear()
        self._mark(ranks, ItemOutcome.CANCELLED)
        return Settled(ItemOutcome.CANCELLED, self._order.items(ranks))

    def stats(self) -> PlanStats:
        cost = self._measured_cost
        return PlanStats(
            queued=self.queued,
            in_flight=sum(len(flight.ranks) for flight in self._flights.values()),
            outcomes=dict(self._counts),
            seconds_per_cost=self._measured_seconds / cost if cost else None,
            slots={slot: shard.stats() for slot, shard in self._shards.items()},
        )

    def check_invariants(self) -> None:
        """Raise AssertionError unless every item is in one place and the loads are right."""
        flights = self._flights.values()
        places = Counter(self._places())
        assert set(places.values()) <= {1}, "an item is in two places"
        assert len(places) == self._unsettled, "an item is lost"
        self._backlog.check_invariants()
        for slot, shard in self._shards.items():
            shard.check_invariants()
            mine = {flight.batch.id for flight in flights if flight.batch.slot == slot}
            assert mine == set(shard.flying), f"slot {slot} is charged for other batches"
            assert slot in self._backlog.open or not shard.queue, f"slot {slot} left its queue"

    def _places(self) -> Iterator[int]:
        """Yield the rank of every item that is not settled, for each place it is in."""
        yield from self._backlog
        yield from self._suspects
        yield from self._halves
        for flight in self._flights.values():
            yield from flight.ranks

    def _draw(self, shard: SlotShard) -> Sequence[int]:
        items, cost, speed = self._backlog.outlook()
        if not items:
            return ()
        limit = self._sizer.limit(items, cost, share=shard.speed / speed, speed=shard.speed)
        if ranks := self._backlog.draw(shard, limit):
            self._sizer.handed_out(len(self._backlog.open))
        return ranks

    def _hand_out(
        self,
        shard: SlotShard,
        ranks: Sequence[int],
        suspect: Suspect | None = None,
        half: Half | None = None,
    ) -> Batch:
        again = suspect or half
        batch = Batch(
            id=self._next_id,
            slot=shard.slot,
            items=self._order.items(ranks),
            alone=len(ranks) == 1,
            attempt=again.runs + 1 if again else 1,
        )
        self._next_id += 1
        cost = self._order.cost(ranks)
        self._flights[batch.id] = _Flight(batch, ranks, cost, suspect, half)
        shard.start(batch.id, cost)
        shard.retries += again is not None
        self._history.append(("take", batch.id))
        return batch

    def _land(self, report: str, batch: Batch) -> _Flight:
        """Take a batch out of flight."""
        flight = self._flights.get(batch.id)
        if flight is None or flight.batch is not batch:
            raise self._impossible(report, f"batch {batch.id}")
        del self._flights[batch.id]
        self._shards[batch.slot].stop(batch.id)
        self._history.append((report, batch.id))
        return flight

    def _measure(self, flight: _Flight, seconds: float) -> None:
        shard = self._shards[flight.batch.slot]
        shard.seconds += seconds
        # An item that runs alone for a culprit's sake tells more of messages than of work.
        if flight.suspect:
            return
        count = len(flight.ranks)
        self._sizer.measured(count, flight.cost, seconds * shard.speed)
        self._measured_cost += flight.cost
        self._measured_seconds += seconds * shard.declared
        shard.measured(count, flight.cost, seconds)
        if self._measured_cost:
            shard.judge(self._measured_seconds / self._measured_cost)

    def _halve(self, flight: _Flight) -> Settled:
        """Have both halves of a batch that was too large run, each by itself."""
        # A half that fails again says more about a giant in it than about sizes.
        if flight.half is None:
            self._sizer.too_large(len(flight.ranks))
        self._halves.split(flight.ranks, flight.half)
        return Settled(ItemOutcome.FAILED, ())

    def _accuse(self, flight: _Flight, outcome: ItemOutcome, avoid: frozenset[int]) -> Settled:
        """Have each item of a broken batch run alone; once cancelled, nothing starts again."""
        if self._cancelled:
            return self._settle(flight, ItemOutcome.CANCELLED)
        self._suspects.accuse(flight.ranks, avoid)
        return Settled(outcome, ())

    def _settle(self, flight: _Flight, outcome: ItemOutcome) -> Settled:
        self._shards[flight.batch.slot].items += len(flight.ranks)
        self._mark(flight.ranks, outcome)
        return Settled(outcome, flight.batch.items)

    def _mark(self, ranks: Sequence[int], outcome: ItemOutcome) -> None:
        self._unsettled -= len(ranks)
        self._counts[outcome] += len(ranks)

    def _impossible(self, event: str, subject: object) -> InvalidTransition:
        state = f"{self._unsettled} items left, open slots {sorted(self._backlog.open)}"
        story = [name if what is None else f"{name} {what}" for name, what in self._history]
        return InvalidTransition("batch plan", state, f"{event} {subject}", story)


@dataclass(slots=True)
class _Flight:
    """A batch that is with a worker, as the plan knows it."""

    batch: Batch
    ranks: Sequence[int]
    cost: float
    suspect: Suspect | None
    half: Half | None

    def as_suspect(self) -> Suspect:
        return self.suspect or Suspect(self.ranks[0])
