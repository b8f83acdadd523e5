"""`Job`: the run of a list, over `policy.shards.BatchPlan`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import ItemError, PartialFailure
from ..policy.dedup import Merged
from ..policy.shards import BatchPlan
from ..promise import resolve
from .assignment import Assignment
from .plan_work import ItemResult, PlanWork
from .progress import Reporter
from .seeds import derive_seed

__all__ = ["Job"]


class Job(PlanWork):
    """The items of one list, each of which ends in exactly one outcome."""

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
        """Prepare; nothing runs yet. Further parameters are those of `PlanWork`.

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
        super().__init__(
            plan, reporter, priority=priority, claims=claims, item_timeout=item_timeout
        )
        self._merged = merged
        self._unique = [items[position] for position in merged.firsts]
        self._values: list[Any] = [_PENDING] * len(self._unique)
        self._errors: dict[int, Exception] = {}
        self._seeds = (
            None if seed is None else [derive_seed(seed, position) for position in merged.firsts]
        )
        self._on_results = on_results
        if not items:
            resolve(self.ended, None)

    def took(self, results: int) -> None:
        """All results of a list are kept until its end: nothing waits for this."""

    def cancel(self) -> list[Assignment]:
        self._on_results = None
        return super().cancel()

    def collect(self, on_error: str) -> list[Any]:
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

    @property
    def saved(self) -> int:
        return len(self._merged.owners) - len(self._merged.firsts)

    # ---------------------------------------------------------------- of the form it has

    def _items(self, numbers: Sequence[int]) -> list[Any]:
        return _pick(self._unique, numbers)

    def _seeds_of(self, numbers: Sequence[int]) -> list[int] | None:
        return None if self._seeds is None else _pick(self._seeds, numbers)

    def _answered(self, numbers: Sequence[int], values: list[Any]) -> None:
        _put(self._values, numbers, values)
        self._announce(numbers)

    def _failed(self, numbers: Sequence[int], error: Exception) -> None:
        self._errors.update(dict.fromkeys(numbers, error))
        self._announce(numbers)

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
