"""The run of a list: all items are there at once, and what becomes of each is written down."""

from __future__ import annotations

from collections.abc import Sequence

from .batch import Batch, ItemOutcome, PlanStats, Settled, SlotStats
from .run_plan import RunPlan
from .work_order import work_order

__all__ = ["Batch", "BatchPlan", "ItemOutcome", "PlanStats", "Settled", "SlotStats"]


class BatchPlan(RunPlan):
    """The state machine of one pool run over the unique items ``0..count-1``."""

    def __init__(
        self,
        costs: Sequence[float] | None,
        count: int,
        *,
        max_batch: int | None = None,
        retries: int = 1,
        target_seconds: float = 0.05,
        grain_seconds: float = 0.001,
        seconds_per_cost: float | None = None,
    ) -> None:
        """Plan a run of `count` items, which cost what `costs` says; None: all the same.

        The other parameters are those of `RunPlan`.

        Raises:
            InvalidRequest: a value means nothing; the message names it.
        """
        super().__init__(
            work_order(costs, count),
            max_batch=max_batch,
            retries=retries,
            target_seconds=target_seconds,
            grain_seconds=grain_seconds,
            seconds_per_cost=seconds_per_cost,
        )
        self._outcomes = bytearray(count)  # an `ItemOutcome` for each rank; 0: not settled

    def check_invariants(self) -> None:
        """Raise AssertionError unless every item is in one place and the loads are right."""
        super().check_invariants()
        open_ranks = {rank for rank, outcome in enumerate(self._outcomes) if not outcome}
        assert set(self._places()) == open_ranks, "an item is settled and goes on"
        assert self._unsettled + sum(self._counts.values()) == len(self._outcomes)

    def _mark(self, ranks: Sequence[int], outcome: ItemOutcome) -> None:
        super()._mark(ranks, outcome)
        code = outcome.value
        if isinstance(ranks, range):
            self._outcomes[ranks.start : ranks.stop] = bytes((code,)) * len(ranks)
            return
        for rank in ranks:
            self._outcomes[rank] = code
