"""`Planner`: from a caller's items and options to a run that a crew can serve.

Everything that can be wrong with a list is found here, before anything is started.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from .. import ambient
from ..policy.arrivals import ArrivalPlan
from ..policy.costs import read_costs
from ..policy.dedup import merge
from ..policy.look_ahead import LookAhead
from ..policy.shards import BatchPlan
from .crew import Crew
from .flow import Flow, Pricing
from .items import cost_of, costs_of, key_of, keys_of
from .job import Job
from .launcher import Launcher
from .options import RunOptions
from .plan_work import ItemResult
from .progress import ProgressCallback, Reporter
from .result_key import result_keys
from .share import Share
from .tool import Tool, has_own_cost

__all__ = ["OnResults", "Planner"]

OnResults = Callable[[list[ItemResult]], None]


class Planner:
    """Prepares the runs of one workforce."""

    def __init__(self, launcher: Launcher, *, retries: int, share: Share | None) -> None:
        """Prepare nothing yet.

        Args:
            launcher: what the runtime provides.
            retries: how often an item may be run again after its worker died.
            share: the way to the result cache; None: there is none.
        """
        self.share = share
        self._launcher = launcher
        self._retries = retries

    def shares(self, tool: Tool, options: RunOptions) -> bool:
        """Whether answers of such a run may come from the result cache."""
        return self.share is not None and _merges(tool, options)

    def job(
        self,
        tool: Tool,
        items: list[Any],
        options: RunOptions,
        rate: float | None,
        report: ProgressCallback | None,
        on_results: OnResults | None,
    ) -> Job:
        """Return the run of a list.

        Args:
            tool: what answers the items.
            items: the list.
            options: the caller's.
            rate: seconds per cost, as an earlier run measured it.
            report: is given the progress.
            on_results: is given outcomes as they come; None: they are kept for `collect`.

        Raises:
            InvalidRequest: a cost or a key means nothing.
        """
        merged = merge(keys_of(tool, items) if _merges(tool, options) else [None] * len(items))
        costs = costs_of(tool, items)
        if costs is not None:
            costs = [costs[position] for position in merged.firsts]
        plan = BatchPlan(
            costs,
            len(merged.firsts),
            max_batch=tool.max_batch,
            retries=self._retries,
            seconds_per_cost=rate,
        )
        return Job(
            items,
            merged,
            plan,
            Reporter(report, len(items), costs or len(merged.firsts), self._launcher.clock),
            priority=options.priority,
            claims=ambient.claims.get(),
            seed=options.seed,
            item_timeout=options.item_timeout,
            on_results=on_results,
        )

    def flow(
        self,
        tool: Tool,
        items: list[Any] | None,
        options: RunOptions,
        crew: Crew,
        report: ProgressCallback | None,
        on_results: OnResults | None,
    ) -> Flow:
        """Return the run of a source, or of a list that is drawn like one.

        Args:
            tool: what answers the items.
            items: the list; None: nobody knows what will come.
            options: the caller's.
            crew: what will serve it.
            report: is given the progress.
            on_results: is given outcomes as they come; None: they are kept for `collect`.

        Raises:
            InvalidRequest: a cost or a key of the list means nothing.
        """
        total = None if items is None else len(items)
        plan = ArrivalPlan(
            max_batch=tool.max_batch,
            retries=self._retries,
            seconds_per_cost=crew.seconds_per_cost,
        )
        return Flow(
            plan,
            Reporter(report, total, total or 0, self._launcher.clock),
            self._pricing(tool, items, options),
            LookAhead(
                len(crew.stations),
                # A list is in memory as it is, and the more of it is planned at once the better.
                limit=total or options.look_ahead,
                max_batch=tool.max_batch,
            ),
            share=self.share if self.shares(tool, options) else None,
            priority=options.priority,
            claims=ambient.claims.get(),
            seed=options.seed,
            item_timeout=options.item_timeout,
            on_results=on_results,
        )

    def _pricing(self, tool: Tool, items: list[Any] | None, options: RunOptions) -> Pricing:
        key: Callable[[int, Any], Hashable | None] = _none
        if _merges(tool, options):
            key = partial(key_of, tool) if self.share is None else result_keys(tool)
        if items is None:
            return Pricing(partial(cost_of, tool) if has_own_cost(tool) else _one, key)
        keys = [key(index, item) for index, item in enumerate(items)]
        costs = read_costs(costs_of(tool, items) or ())
        if not any(costs):
            # Items that are all said to cost nothing still take their time.
            costs = [1.0] * len(items)
        return Pricing(lambda index, _: costs[index], lambda index, _: keys[index])


def _merges(tool: Tool, options: RunOptions) -> bool:
    """Whether equal items have equal answers."""
    return tool.deterministic and options.seed is None


def _one(index: int, item: Any) -> float:
    return 1.0


def _none(index: int, item: Any) -> None:
    return None
