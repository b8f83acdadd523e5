"""`Flow`: the run of a source, over `policy.arrivals.ArrivalPlan`.

Items come while others run. Each is one *unit* together with those equal to it that come before it
has its outcome. A unit is computed by this run's workers, unless the result cache knows the answer
or somebody else is about to find it; should that one fail, the unit is computed here after all.
When its outcome has been handed on, nothing is kept of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ItemError, PartialFailure
from ..policy.arrivals import ArrivalPlan
from ..policy.look_ahead import LookAhead
from ..promise import Promise, new_promise, resolve
from .assignment import Assignment
from .parcel import Parcel
from .plan_work import ItemResult, PlanWork
from .progress import Reporter
from .seeds import derive_seed
from .share import Share

__all__ = ["Flow", "Pricing", "Unit"]


@dataclass(frozen=True, slots=True)
class Pricing:
    """What a flow asks the tool about an item, by the item's index."""

    cost: Callable[[int, Any], float]
    key: Callable[[int, Any], Hashable | None]
    """What makes it equal to another; None: nothing does."""


@dataclass(slots=True, eq=False)
class Unit:
    """One item, and every place of the source that it stands in."""

    flow: Flow
    item: Any
    cost: float
    key: Hashable | None
    places: list[int]

    def lead(self) -> None:
        """Compute it here."""
        self.flow.plan_unit(self)

    def receive(self, parcel: Parcel) -> None:
        """It was computed elsewhere."""
        self.flow.open_parcel(self, parcel)


class Flow(PlanWork):
    """The items of one source, each of which ends in exactly one outcome."""

    plan: ArrivalPlan

    def __init__(
        self,
        plan: ArrivalPlan,
        reporter: Reporter,
        pricing: Pricing,
        look_ahead: LookAhead,
        *,
        share: Share | None,
        priority: int,
        claims: frozenset[int],
        seed: int | None = None,
        item_timeout: float | None = None,
        on_results: Callable[[list[ItemResult]], None] | None = None,
    ) -> None:
        """Prepare; further parameters are those of `PlanWork`.

        Args:
            plan: decides what goes where.
            reporter: is told about progress.
            pricing: the tool's costs and keys.
            look_ahead: how many items may be out.
            share: the way to the result cache; None: there is none.
            priority: higher goes first.
            claims: device claims of the caller's task.
            seed: gives every item its own; None: the tool gets none.
            item_timeout: seconds an item may run, counted from dispatch.
            on_results: is given outcomes as they come; None: they are kept for `collect`.
        """
        super().__init__(
            plan, reporter, priority=priority, claims=claims, item_timeout=item_timeout
        )
        self._pricing = pricing
        self._look_ahead = look_ahead
        self._share = share
        self._seed = seed
        self._kept: list[ItemResult] = []
        self._on_results = on_results or self._keep
        self._planned: dict[int, Unit] = {}
        self._elsewhere: set[Unit] = set()
        self._by_key: dict[Hashable, Unit] = {}
        self._stopped = False
        self._drawn_all = False
        self._source_error: Exception | None = None
        self._room: Promise[None] | None = None
        self._saved = 0

    # ------------------------------------------------------------------- the source's side

    async def room(self) -> int:
        """Wait until items may be drawn; return how many. 0: no more are wanted."""
        while not self._stopped:
            if room := self._look_ahead.room:
                return room
            self._room = new_promise()
            await self._room
        return 0

    def stop_drawing(self) -> None:
        """No more items are wanted."""
        self._stopped = True
        if self._room is not None:
            resolve(self._room, None)

    @property
    def scarce(self) -> bool:
        """Whether a worker may be idle, or not even be there, for want of items."""
        return self.plan.queued <= self._look_ahead.slots

    def admit(self, item: Any) -> None:
        """Take the next item of the source.

        Raises:
            InvalidRequest: the tool's `cost` or `key` makes no sense of it.
            Exception: why the run has failed meanwhile.
        """
        if self._failure is not None:
            raise self._failure
        index = self._look_ahead.drawn
        key = self._pricing.key(index, item)
        twin = None if key is None else self._by_key.get(key)
        if twin is None:
            self._begin(Unit(self, item, self._pricing.cost(index, item), key, [index]))
        else:
            twin.places.append(index)
            self._saved += 1
        self._look_ahead.drawn += 1

    def complete(self, error: Exception | None = None) -> None:
        """The source has ended; `error` is what it raised."""
        self._drawn_all = True
        if self._failure is None:
            self._source_error = error
        self._reporter.complete(self._look_ahead.drawn)
        self._end_if_finished()

    def break_off(self, error: Exception) -> None:
        """No more items can come, although the source has not ended."""
        if not self._drawn_all and self._failure is None:
            self.fail(error)

    # ----------------------------------------------------------------------- units' lives

    def _begin(self, unit: Unit) -> None:
        if unit.key is not None:
            self._by_key[unit.key] = unit
        if unit.key is None or self._share is None:
            self.plan_unit(unit)
        else:
            self._elsewhere.add(unit)
            self._share.seek(unit.key, unit)

    def plan_unit(self, unit: Unit) -> None:
        """Compute it here."""
        number = self.plan.admit(unit.cost)
        self._elsewhere.discard(unit)
        self._planned[number] = unit

    def open_parcel(self, unit: Unit, parcel: Parcel) -> None:
        """It was computed elsewhere, now or long ago."""
        assert self._share is not None
        self._share.open(parcel, lambda value: self._shared([(unit, value)]))

    def _answered(self, numbers: Sequence[int], values: list[Any]) -> None:
        self._look_ahead.answered(len(numbers))
        pairs = [(self._planned.pop(n), v) for n, v in zip(numbers, values, strict=True)]
        if self._share is None:
            self._hand_on(pairs)
            return
        # Until all of them are packed, they count as elsewhere, and the flow goes on.
        self._elsewhere.update(unit for unit, _ in pairs)
        self._share.offer(pairs, self._shared)

    def _shared(self, pairs: Sequence[tuple[Unit, Any]]) -> None:
        """Nobody else has these very answers: the caller may do with them what he likes."""
        self._elsewhere.difference_update(unit for unit, _ in pairs)
        self._hand_on(pairs)
        self._end_if_finished()

    def _failed(self, numbers: Sequence[int], error: Exception) -> None:
        results: list[ItemResult] = []
        for number in numbers:
            unit = self._planned.pop(number)
            self._let_go(unit)
            results += [ItemResult(place, error=error) for place in unit.places]
        if results:
            self._reporter.items(range(len(results)), done=0, failed=len(results))
            self._on_results(results)

    def _hand_on(self, pairs: Sequence[tuple[Unit, Any]]) -> None:
        results = []
        for unit, value in pairs:
            if unit.key is not None:
                self._by_key.pop(unit.key, None)
            first, *others = unit.places
            results.append(ItemResult(first, value))
            results += [ItemResult(place, copy.deepcopy(value)) for place in others]
        self._reporter.items(range(len(results)), done=len(results), failed=0)
        self._on_results(results)

    def _let_go(self, unit: Unit) -> None:
        """Have nobody wait for it any more, nor it for anybody."""
        if unit.key is not None:
            self._by_key.pop(unit.key, None)
            if self._share is not None:
                self._share.leave(unit.key, unit)

    # ------------------------------------------------------------------- the caller's side

    @property
    def finished(self) -> bool:
        # What was answered may still be on its way into the cache.
        return self._failure is not None or (self.plan.done and not self._elsewhere)

    @property
    def saved(self) -> int:
        return self._saved

    def took(self, results: int) -> None:
        self._look_ahead.taken += results
        if self._room is not None and self._look_ahead.room:
            resolve(self._room, None)

    def fail(self, error: Exception) -> None:
        self._let_all_go()
        super().fail(error)

    def cancel(self) -> list[Assignment]:
        self._on_results = _nowhere
        running = super().cancel()
        self._let_all_go()
        return running

    def check(self) -> None:
        super().check()
        if self._source_error is not None:
            raise self._source_error

    def collect(self, on_error: str) -> list[Any]:
        if not self._kept:
            super().check()
        answers: list[Any] = [None] * self._look_ahead.drawn
        # What has no outcome will not get one: no worker can serve the run any more.
        errors = dict.fromkeys(range(len(answers)), self._failure) if self._failure else {}
        for result in self._kept:
            answers[result.index] = result.value
            errors.pop(result.index, None)
            if result.error is not None:
                errors[result.index] = result.error
        if (errors and on_error == "raise") or self._source_error is not None:
            raise self._partial_failure(answers, errors) from self._source_error
        for index, error in errors.items():
            answers[index] = ItemError(index, error)
        return answers

    def _partial_failure(self, answers: list[Any], errors: dict[int, Exception]) -> PartialFailure:
        results = {i: answer for i, answer in enumerate(answers) if i not in errors}
        if self._source_error is not None:
            errors = {**errors, len(answers): self._source_error}
        return PartialFailure(results, dict(sorted(errors.items())))

    # ------------------------------------------------------------------------- helpers

    def _items(self, numbers: Sequence[int]) -> list[Any]:
        return [self._planned[number].item for number in numbers]

    def _seeds_of(self, numbers: Sequence[int]) -> list[int] | None:
        if self._seed is None:
            return None
        return [derive_seed(self._seed, self._planned[number].places[0]) for number in numbers]

    def _let_all_go(self) -> None:
        units = [*self._planned.values(), *self._elsewhere]
        self._elsewhere.clear()
        for unit in units:
            self._let_go(unit)

    def _keep(self, results: list[ItemResult]) -> None:
        self._kept += results
        self.took(len(results))

    def _end_if_finished(self) -> None:
        if self._drawn_all and not self._elsewhere:
            self.plan.complete()
        super()._end_if_finished()


def _nowhere(results: list[ItemResult]) -> None:
    """The caller is gone."""
