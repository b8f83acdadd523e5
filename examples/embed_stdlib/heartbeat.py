"""The heartbeat: how late the event loop ever was, and how long it worked at a stretch."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter, thread_time

import anyio

_INTERVAL = 0.005


@dataclass(slots=True)
class Heartbeat:
    """Asks to be woken every 5 ms, and notes how much later it was.

    On a machine whose cores are all busy, some of that is the operating system giving others their
    turn. So it also notes how long the loop's own thread computed between two beats: that bounds
    what any callback or task step took.
    """

    lags: list[float] = field(default_factory=list)
    """Seconds late, beat by beat."""
    longest_work: float = 0.0
    """The most seconds of processor time that the loop's thread used between two beats."""

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            due = perf_counter() + _INTERVAL
            used = thread_time()
            await anyio.sleep(_INTERVAL)
            self.lags.append(max(0.0, perf_counter() - due))
            self.longest_work = max(self.longest_work, thread_time() - used)

    @property
    def worst(self) -> float:
        return max(self.lags, default=0.0)

    def percentile(self, percent: float) -> float:
        """Return the lag that `percent` of the beats stayed below."""
        ordered = sorted(self.lags) or [0.0]
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
