"""`CallQueue`: single items that arrive one by one, batched while the workers are busy.

A lone call goes at once. What queues while every worker is busy goes together. A batch that fails
is run again one by one, so that a poison item fails alone and its batch-mates get their answers;
one that was out of memory is run again in halves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from ..errors import WorkerDied
from ..policy.micro_batch import BatchSizer
from ..ports import Reply
from ..promise import Promise, new_promise, resolve
from .assignment import Assignment

__all__ = ["Call", "CallQueue"]

# A single call is interactive: a micro-batch that keeps its batch-mates waiting should stay short.
_TARGET_SECONDS = 0.05
# Below this a message costs more than waiting together does.
_GRAIN_SECONDS = 0.001


@dataclass(slots=True, eq=False)
class Call:
    """One item on its way; its outcome is a `Reply`, so that no error goes unretrieved."""

    item: Any
    cost: float = 1.0
    hold_until: float = 0.0
    """On the loop's clock: until then it may wait for others to go with."""
    deaths: int = 0
    """How many workers died while they ran it alone."""
    unfit: frozenset[int] = frozenset()
    """Slots without the memory for it, even alone."""
    assignment: Assignment | None = None
    """The micro-batch it runs in; None: it waits, or has its reply."""
    outcome: Promise[Reply] = field(default_factory=new_promise)

    @property
    def abandoned(self) -> bool:
        """Whoever awaited it is gone."""
        return self.outcome.done()


class CallQueue:
    """The single calls of one priority for one crew."""

    def __init__(
        self,
        *,
        priority: int,
        max_batch: int | None,
        retries: int,
        seconds_per_cost: float | None,
        clock: Callable[[], float],
    ) -> None:
        """Begin empty.

        Args:
            priority: higher goes first.
            max_batch: the most items of one micro-batch; None: what fits the sizer's target.
            retries: how often an item may be run again after its worker died.
            seconds_per_cost: as measured before; None: not known.
            clock: the loop's.
        """
        self.priority = priority
        self.claims: frozenset[int] = frozenset()
        self._retries = retries
        self._clock = clock
        self._max_batch = max_batch
        self._waiting: deque[Call] = deque()
        self._again: deque[list[Call]] = deque()
        self._in_flight: set[Assignment] = set()
        self._slots: set[int] = set()
        self._cost = 0.0
        self._sizer = BatchSizer(
            max_batch=max_batch,
            target_seconds=_TARGET_SECONDS,
            grain_seconds=_GRAIN_SECONDS,
            seconds_per_cost=seconds_per_cost,
        )

    def __len__(self) -> int:
        return len(self._waiting) + sum(map(len, self._again))

    def add(self, call: Call, claims: frozenset[int]) -> None:
        """Queue a call; `claims` are held by its task."""
        self.claims |= claims
        self._waiting.append(call)
        self._cost += call.cost

    def forget(self, call: Call) -> None:
        """Nobody awaits `call` any more; a micro-batch of such calls alone is cancelled."""
        if call.assignment is not None and all(c.abandoned for c in call.assignment.batch):
            call.assignment.cancel()

    # ------------------------------------------------------------- as work for a crew

    @property
    def finished(self) -> bool:
        return not (self._waiting or self._again or self._in_flight)

    @property
    def demand(self) -> int:
        return len(self._in_flight) + len(self)

    def join(self, slot: int) -> None:
        self._slots.add(slot)

    def leave(self, slot: int) -> None:
        self._slots.discard(slot)

    def take(self, slot: int) -> Assignment | None:
        self._drop_abandoned()
        calls = self._take_again(slot) if self._again else []
        if not calls:
            if not self._waiting or self._held():
                return None
            calls = self._batch()
        assignment = Assignment(self, calls, [call.item for call in calls])
        for call in calls:
            call.assignment = assignment
        self._in_flight.add(assignment)
        return assignment

    def settle(self, assignment: Assignment, reply: Reply) -> None:
        self._in_flight.discard(assignment)
        calls: list[Call] = assignment.batch
        for call in calls:
            call.assignment = None
        if reply.error is None:
            cost = sum(call.cost for call in calls)
            self._sizer.measured(len(calls), cost, reply.seconds)
            for call, answer in zip(calls, reply.value, strict=True):
                resolve(call.outcome, Reply(answer))
        elif assignment.preempted:
            self._waiting.extendleft(reversed(calls))
            self._cost += sum(call.cost for call in calls)
        elif len(calls) > 1:
            self._split(calls, out_of_memory=bool(assignment.unfit))
        else:
            self._settle_alone(calls[0], reply, assignment.unfit)
        if self.finished:
            self.claims = frozenset()

    def fail(self, error: Exception) -> None:
        # Those that run have lost their workers: nobody would run them again.
        running = (assignment.batch for assignment in self._in_flight)
        for call in (*chain(*self._again, *running), *self._waiting):
            resolve(call.outcome, Reply(error=error))
        self._again.clear()
        self._waiting.clear()
        self._cost = 0.0

    def notice_loading(self, stations: int) -> None:
        """Nobody watches the progress of a single call."""

    # ------------------------------------------------------------------------- helpers

    def _split(self, calls: list[Call], *, out_of_memory: bool) -> None:
        """Have the calls of a broken micro-batch run again."""
        if not out_of_memory:
            self._again.extend([call] for call in calls)
            return
        self._sizer.too_large(len(calls))
        middle = (len(calls) + 1) // 2
        self._again += (calls[:middle], calls[middle:])

    def _settle_alone(self, call: Call, reply: Reply, unfit: frozenset[int]) -> None:
        again = False
        if isinstance(reply.error, WorkerDied):
            call.deaths += 1
            again = call.deaths <= self._retries
        elif unfit:
            call.unfit |= unfit
            again = not call.unfit.issuperset(self._slots)
        if again:
            self._again.append([call])
        else:
            resolve(call.outcome, reply)

    def _take_again(self, slot: int) -> list[Call]:
        """Return calls that are to be run again, and that `slot` may try; none, if there are none.

        One that fitted nowhere goes anywhere once the slot that was kept for it has left.
        """
        for calls in self._again:
            unfit = calls[0].unfit
            if slot not in unfit or unfit.issuperset(self._slots):
                self._again.remove(calls)
                return calls
        return []

    def _drop_abandoned(self) -> None:
        if self._again:
            left = ([c for c in calls if not c.abandoned] for calls in self._again)
            self._again = deque(calls for calls in left if calls)
        while self._waiting and self._waiting[0].abandoned:
            self._cost -= self._waiting.popleft().cost

    def _held(self) -> bool:
        full = self._max_batch is not None and len(self._waiting) >= self._max_batch
        return not full and self._waiting[0].hold_until > self._clock()

    def _batch(self) -> list[Call]:
        """Share what waits among the stations, within what one micro-batch may hold."""
        limit = self._sizer.limit(
            items=len(self._waiting),
            cost=self._cost,
            share=1 / max(1, len(self._slots)),
            speed=1.0,
        )
        calls: list[Call] = []
        cost = 0.0
        while self._waiting and len(calls) < max(1, limit.items):
            call = self._waiting[0]
            cost += call.cost
            if calls and cost > limit.cost:
                break
            calls.append(self._waiting.popleft())
            self._cost -= call.cost
        if not self._waiting:
            self._cost = 0.0  # rounding errors do not add up
        return calls
