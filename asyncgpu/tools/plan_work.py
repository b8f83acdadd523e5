"""`PlanWork`: one run on its way through a crew, whichever way its items come.

A `policy.run_plan.RunPlan` decides which items go where and what a failure means; this is its
shell: it turns numbers into items, replies into outcomes, and outcomes into the caller's order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import WorkerDied
from ..policy.batch import Batch
from ..policy.run_plan import RunPlan
from ..ports import Reply
from ..promise import Promise, new_promise, resolve
from .assignment import Assignment
from .makespan import Makespan
from .progress import Reporter

__all__ = ["ItemResult", "PlanWork"]


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The outcome of one item, as `ToolPool.stream` hands it out."""

    index: int
    """The item's place in the caller's list, or how many came before it from the source."""
    value: Any = None
    error: Exception | None = None
    """What went wrong with it; None: `value` is the answer."""


class PlanWork(ABC):
    """The items of one call, each of which ends in exactly one outcome."""

    def __init__(
        self,
        plan: RunPlan,
        reporter: Reporter,
        *,
        priority: int,
        claims: frozenset[int],
        item_timeout: float | None,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            plan: decides what goes where.
            reporter: is told about progress.
            priority: higher goes first.
            claims: device claims of the caller's task.
            item_timeout: seconds an item may run, counted from dispatch.
        """
        self.priority = priority
        self.claims = claims
        self.plan = plan
        self.ended: Promise[None] = new_promise()
        self.makespan = Makespan()
        self._reporter = reporter
        self._item_timeout = item_timeout
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
        assignment = Assignment(self, batch, self._items(batch.items))
        assignment.seeds = self._seeds_of(batch.items)
        if self._item_timeout is not None:
            assignment.limit = self._item_timeout * len(batch.items)
        self._in_flight[batch.id] = assignment
        return assignment

    def settle(self, assignment: Assignment, reply: Reply) -> None:
        batch: Batch = assignment.batch
        del self._in_flight[batch.id]
        error = reply.error
        if error is None:
            self.makespan.add(batch.slot, assignment.started, reply.seconds)
            self._answered(self.plan.succeeded(batch, reply.seconds).items, reply.value)
        else:
            self._failed(*self._report(assignment, error))
        self._end_if_finished()

    def _report(self, assignment: Assignment, error: Exception) -> tuple[Sequence[int], Exception]:
        """Tell the plan why a micro-batch has no answer; return which items that settles."""
        batch: Batch = assignment.batch
        if assignment.preempted:
            settled = self.plan.returned(batch)
        elif assignment.timed_out:
            error = TimeoutError(f"an item ran longer than its {self._item_timeout:g} s")
            settled = self.plan.failed(batch)
        elif isinstance(error, WorkerDied):
            settled = self.plan.died(batch)
        else:
            settled = self.plan.failed(batch, unfit=assignment.unfit)
        return settled.items, error

    def fail(self, error: Exception) -> None:
        self._failure = error
        self.plan.cancel()
        self._end_if_finished()

    def notice_loading(self, stations: int) -> None:
        self._reporter.loading(stations)

    # -------------------------------------------------------------------- the caller's side

    @abstractmethod
    def took(self, results: int) -> None:
        """The caller has taken so many more results."""

    def cancel(self) -> list[Assignment]:
        """Start nothing that is queued; return what is running."""
        self.plan.cancel()
        return list(self._in_flight.values())

    def check(self) -> None:
        """Raise why no worker could serve it, if that is how it ended."""
        if self._failure is not None:
            raise self._failure

    @property
    @abstractmethod
    def saved(self) -> int:
        """How many items were equal to an earlier one and not computed again."""

    @abstractmethod
    def collect(self, on_error: str) -> list[Any]:
        """Return the answers in the caller's order, once the run has ended.

        Raises:
            PartialFailure: some items failed, and `on_error` is ``"raise"``.
            Exception: why no item could be computed at all.
        """

    # ---------------------------------------------------------------- of the form it has

    @abstractmethod
    def _items(self, numbers: Sequence[int]) -> list[Any]:
        """Return the items of these numbers."""

    @abstractmethod
    def _seeds_of(self, numbers: Sequence[int]) -> list[int] | None:
        """Return a seed for each; None: the caller gave none."""

    @abstractmethod
    def _answered(self, numbers: Sequence[int], values: list[Any]) -> None:
        """These items have their answers."""

    @abstractmethod
    def _failed(self, numbers: Sequence[int], error: Exception) -> None:
        """These items, if any, have failed for good."""

    def _end_if_finished(self) -> None:
        if self.finished:
            resolve(self.ended, None)
