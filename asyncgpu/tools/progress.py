"""`Progress`: what a run has done so far, for a callback or a bar."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Progress", "ProgressCallback", "Reporter"]

log = logging.getLogger("asyncgpu.tools")

ProgressCallback = Callable[["Progress"], object]

# Ten snapshots a second is all an eye can use; a batch of a million items must not pay for more.
_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of one run."""

    total: int | None
    """Items of the caller's list; of a source, None until it has ended."""
    done: int
    """Items with an answer, equal ones counted each."""
    failed: int
    """Items with an error."""
    loading: int
    """Workers that start or load now."""
    elapsed: float
    """Seconds since the run began."""
    rate: float
    """Items per second since the first answer could come; 0.0 before it."""
    eta: float | None
    """Seconds to go, by the costs of the items; None: not known yet."""

    @property
    def finished(self) -> bool:
        """Whether every item has its outcome, and no more will come."""
        return self.done + self.failed == self.total


class Reporter:
    """Counts, and tells a callback at a bearable rate; the last snapshot always comes."""

    def __init__(
        self,
        callback: ProgressCallback | None,
        total: int | None,
        costs: Sequence[float] | int,
        clock: Callable[[], float],
    ) -> None:
        """Begin to count.

        Args:
            callback: is given the snapshots; None: nobody watches, and nothing is counted.
            total: items of the caller's list; None: nobody knows, until `complete` says it.
            costs: of each unique item, or how many there are if all cost the same.
            clock: the loop's.
        """
        self._callback = callback
        self._total = total
        self._costs = costs
        self._clock = clock
        self._began = clock()
        self._working_since: float | None = None
        self._told = float("-inf")
        self._done = 0
        self._failed = 0
        self._loading = 0
        self._cost_left = float(costs if isinstance(costs, int) else sum(costs))
        self._cost_done = 0.0

    def items(self, settled: Sequence[int], *, done: int, failed: int) -> None:
        """Count the unique items `settled`, which stand for `done` and `failed` of the caller's."""
        if self._callback is None:
            return
        self._done += done
        self._failed += failed
        costs = self._costs
        cost = len(settled) if isinstance(costs, int) else sum(costs[item] for item in settled)
        self._cost_done += cost
        self._cost_left -= cost
        self._tell(at_once=self._done + self._failed == self._total)

    def complete(self, total: int) -> None:
        """Say that a source has ended, and how many items came from it, all of one cost."""
        self._total = total
        self._cost_left = float(total - self._done - self._failed)
        self._tell(at_once=True)

    def loading(self, workers: int) -> None:
        """Say how many workers are starting or loading."""
        if self._callback is None or workers == self._loading:
            return
        self._loading = workers
        self._tell(at_once=True)

    def working(self) -> None:
        """A first micro-batch is under way: the rate counts from here, not from the load."""
        if self._working_since is None:
            self._working_since = self._clock()

    def _tell(self, *, at_once: bool) -> None:
        now = self._clock()
        if self._callback is None or (not at_once and now - self._told < _INTERVAL):
            return
        self._told = now
        try:
            self._callback(self._snapshot(now))
        except Exception:
            log.exception("a progress callback raised; the run goes on without it")
            self._callback = None

    def _snapshot(self, now: float) -> Progress:
        settled = self._done + self._failed
        since = now if self._working_since is None else self._working_since
        working = now - since
        rate = settled / working if settled and working > 0 else 0.0
        # By cost, not by items: the costliest go first, so the rate of items rises to the end.
        pace = self._cost_done / working if working > 0 else 0.0
        return Progress(
            total=self._total,
            done=self._done,
            failed=self._failed,
            loading=self._loading,
            elapsed=now - self._began,
            rate=rate,
            eta=None if self._total is None or not pace else max(0.0, self._cost_left / pace),
        )
