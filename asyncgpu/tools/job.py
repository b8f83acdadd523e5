"""`Job`: one batch run on its way through a crew.

`policy.shards.BatchPlan` decides which items go where and what a failure means; this is its shell:
it turns indices into items, replies into outcomes, and outcomes into the caller's order.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ItemError, PartialFailure, WorkerDied
from ..policy.batch import Batch
from ..policy.dedup import Merged
from ..policy.shards import BatchPlan
from ..ports import Reply
from ..promise import Promise, new_promise, resolve
from .assignment import Assignment
from .progress import Reporter
from .seeds import derive_seed

__all__ = ["ItemResult", "Job"]


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The outcome of one item, as `ToolPool.stream` hands it out."""

    index: int
    """The item's place in the caller's list."""
    value: Any = None
    error: Exception | None = None
    """What went wrong with it; None: `value` is the answer."""


class Job:
    """The items of one call, each of which ends in exactly one outcome."""

    def __init__(
        self,
        items: list[Any],
        merged: Merged,
        plan: BatchPlan,
        reporter: Reporter,
        *,
        priority: int,
        claims: frozenset[int],
        seed: int | None = None,
        item_timeout: float | None = None,
        on_results: Callable[[list[ItemResult]], None] | None = None,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            items: the caller's list.
            merged: which of them are equal; the plan counts the unique ones.
            plan: decides what goes where.
            reporter: is told about progress.
            priority: higher goes first.
            claims: device claims of the caller's task.
            seed: gives every item its own; None: the tool gets none.
            item_timeout: seconds an item may run, counted from dispatch.
            on_results: is given outcomes as they come.
        """
        self.priority = priority
        self.claims = claims
        self.plan = plan
        self.ended: Promise[None] = new_promise()
        self.runs: list[tuple[int, float, float]] = []
        """Slot, start on the loop's clock, and seconds in the tool, of each micro-batch."""
        self._merged = merged
        self._unique = [items[position] for position in merged.firsts]
        self._values: list[Any] = [_PENDING] * len(self._unique)
        self._errors: dict[int, Exception] = {}
        self._reporter = reporter
        self._seeds = (
            None if seed is None else [derive_seed(seed, position) for position in merged.firsts]
        )
        self._item_timeout = item_timeout
        self._on_results = on_results
        self._in_flight: dict[int, Assignment] = {}
        self._failure: Exception | None = None

    # ------------------------------------------------------------- as work for a crew

    @property
    def finished(self) -> bool:
        return self.plan.done or self._failure is not None

    @property
    def demand(self) -> int:
        return 0 if self.finished else len(self._in_flight) + self.plan.queued

    def join(self, slot: int) -> None:
        self.plan.open_slot(slot)

    def leave(self, slot: int) -> None:
        self.plan.close_slot(slot)

    def take(self, slot: int) -> Assignment | None:
        batch = self.plan.take(slot)
        if batch is None:
            return None
        self._reporter.working()
        assignment = Assignment(self, batch, _pick(self._unique, batch.items))
        if self._seeds is not None:
            assignment.seeds = _pick(self._seeds, batch.items)
        if self._item_timeout is not None:
            assignment.limit = self._item_timeout * len(batch.items)
        self._in_flight[batch.id] = assignment
        return assignment

    def settle(self, assignment: Assignment, reply: Reply) -> None:
        batch: Batch = assignment.batch
        del self._in_flight[batch.id]
        error = reply.error
        if error is None:
            self.runs.append((batch.slot, assignment.started, reply.seconds))
            _put(self._values, batch.items, reply.value)
            settled = self.plan.succeeded(batch, reply.seconds)
        elif assignment.preempted:
            settled = self.plan.returned(batch)
        elif assignment.timed_out:
            error = TimeoutError(f"an item ran longer than its {self._item_timeout:g} s")
            settled = self.plan.failed(batch)
        elif isinstance(error, WorkerDied):
            settled = self.plan.died(batch)
        else:
            settled = self.plan.failed(batch)
        if error is not None:
            self._errors.update(dict.fromkeys(settled.items, error))
        self._announce(settled.items)
        self._end_if_finished()

    def fail(self, error: Exception) -> None:
        self._failure = error
        self.plan.cancel()
        self._end_if_finished()

    def notice_loading(self, stations: int) -> None:
        self._reporter.loading(stations)

    # -------------------------------------------------------------------- the caller's side

    def cancel(self) -> list[Assignment]:
        """Start nothing that is queued; return what is running."""
        self.plan.cancel()
        self._on_results = None
        return list(self._in_flight.values())

    def collect(self, on_error: str) -> list[Any]:
        """Return the answers in the caller's order, once the job has ended.

        Raises:
            PartialFailure: some items failed, and `on_error` is ``"raise"``.
            Exception: why no item could be computed at all.
        """
        errors = self._unique_errors()
        if not errors:
            return self._expand(self._values)
        if len(errors) == len(self._values):
            self.check()
        if on_error == "raise":
            outcomes = list(self._results(range(len(self._values))))
            raise PartialFailure(
                {r.index: r.value for r in outcomes if r.error is None},
                {r.index: r.error for r in outcomes if r.error is not None},
            )
        answers = self._expand(self._values)
        for unique, error in errors.items():
            for index in self._merged.places(unique):
                answers[index] = ItemError(index, error)
        return answers

    def check(self) -> None:
        """Raise why no worker could serve the job, if that is how it ended."""
        if self._failure is not None:
            raise self._failure

    @property
    def saved(self) -> int:
        """How many items are equal to an earlier one and are not computed again."""
        return len(self._merged.owners) - len(self._merged.firsts)

    @property
    def span(self) -> tuple[float, float] | None:
        """Makespan and its lower bound in seconds, as measured; None before the first answer.

        The bound is max(sum / slots, longest micro-batch), by the seconds spent in the workers.
        """
        if not self.runs:
            return None
        began = min(started for _, started, _ in self.runs)
        ended = max(started + seconds for _, started, seconds in self.runs)
        spent = [seconds for _, _, seconds in self.runs]
        slots = len({slot for slot, _, _ in self.runs})
        return ended - began, max(sum(spent) / slots, max(spent))

    # ------------------------------------------------------------------------- helpers

    def _announce(self, settled: Sequence[int]) -> None:
        if self._on_results is not None:
            self._on_results(list(self._results(settled)))
        failed = self._count([i for i in settled if i in self._errors]) if self._errors else 0
        self._reporter.items(settled, done=self._count(settled) - failed, failed=failed)

    def _count(self, unique: Sequence[int]) -> int:
        if not self._merged.repeats:
            return len(unique)
        return sum(len(self._merged.places(index)) for index in unique)

    def _results(self, unique: Iterable[int]) -> Iterable[ItemResult]:
        """Yield an outcome for every position of every unique item; equal items get copies."""
        for index in unique:
            error = self._errors.get(index)
            for nth, position in enumerate(self._merged.places(index)):
                value = None if error is not None else self._values[index]
                yield ItemResult(position, value if nth == 0 else copy.deepcopy(value), error)

    def _expand(self, values: list[Any]) -> list[Any]:
        if not self._merged.repeats:
            return list(values)
        given: set[int] = set()
        answers = []
        for unique in self._merged.owners:
            value = values[unique]
            answers.append(copy.deepcopy(value) if unique in given else value)
            given.add(unique)
        return answers

    def _unique_errors(self) -> dict[int, Exception]:
        """Return every error; items that no station will serve have the reason for that."""
        if self._failure is not None:
            for index, value in enumerate(self._values):
                if value is _PENDING:
                    self._errors.setdefault(index, self._failure)
        return self._errors

    def _end_if_finished(self) -> None:
        if self.finished:
            resolve(self.ended, None)


def _pick(values: list[Any], indices: Sequence[int]) -> list[Any]:
    if isinstance(indices, range) and indices.step == 1:
        return values[indices.start : indices.stop]
    return [values[index] for index in indices]


def _put(values: list[Any], indices: Sequence[int], answers: list[Any]) -> None:
    if isinstance(indices, range) and indices.step == 1:
        values[indices.start : indices.stop] = answers
        return
    for index, answer in zip(indices, answers, strict=True):
        values[index] = answer


class _Pending:
    """Stands for an answer that has not come."""


_PENDING = _Pending()
