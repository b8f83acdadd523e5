"""`Crew`: the stations of one tool, and the work that waits for them.

Which micro-batch goes to which station is decided here, in the loop's thread and without an await:
the work of highest priority first, works of equal priority in turns, so that a single call never
waits for the end of a batch of ten thousand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio

from ..errors import RequestError, WorkerDied
from ..policy.batch import PlanStats
from ..policy.station_state import StationState
from .assignment import Assignment
from .launcher import Launcher
from .station import Station
from .tool import Tool
from .work import Work, slots_wanted

__all__ = ["Crew"]

log = logging.getLogger("asyncgpu.tools")

# A worker that dies while it loads may have been killed from outside; one that does so again and
# again will not get better by itself.
_START_DEATHS = 3


class Crew:
    """All workers of one tool in one pool or persist block."""

    def __init__(
        self,
        tool: Tool,
        seats: int,
        launcher: Launcher,
        acquire: Callable[[Station], Any],
    ) -> None:
        """Hire nobody yet.

        Args:
            tool: what its workers load.
            seats: the most stations it may have.
            launcher: starts their processes.
            acquire: coroutine function that waits for a station's device.
        """
        self.tool = tool
        self.stations = [Station(slot, tool, launcher, self, acquire) for slot in range(seats)]
        self.seconds_per_cost: float | None = None
        """As the latest run measured it; None: nothing was measured yet."""
        self._works: list[Work] = []
        self._served: dict[Work, int] = {}
        self._ready: set[int] = set()
        self._turn = 0
        self._start_deaths = 0
        self._loading = 0
        self._barred: set[int] = set()
        self._closing = False
        self._pumping = False

    # --------------------------------------------------------------------------- work

    def learn(self, run: PlanStats) -> None:
        """Remember what a run has shown: its part in each slot, and how fast the tool is."""
        for slot, part in run.slots.items():
            self.stations[slot].steals += part.steals
            self.stations[slot].retries += part.retries
        if run.seconds_per_cost is not None:
            self.seconds_per_cost = run.seconds_per_cost

    def submit(self, work: Work) -> None:
        """Serve `work` until it is finished; one that is served already has got more to do."""
        if work not in self._served:
            self._works.append(work)
            self._served[work] = self._turn
            for slot in sorted(self._ready):
                work.join(slot)
        self.pump()

    def pump(self) -> None:
        """Feed every idle station, then open or withdraw stations to fit what is left."""
        if self._closing or self._pumping:
            return
        self._pumping = True  # a reply in mid-pump (an item that cannot be sent) must not re-enter
        try:
            self._drop_finished()
            self._feed_idle()
            self._adjust_stations()
        finally:
            self._pumping = False

    def _feed_idle(self) -> None:
        for station in self.stations:
            # A micro-batch that cannot even be sent is answered at once and leaves it idle.
            while station.available:
                assignment = self._next_assignment(station.slot)
                if assignment is None:
                    break
                station.feed(assignment)

    def _next_assignment(self, slot: int) -> Assignment | None:
        works = self._works
        if len(works) > 1:
            works = sorted(works, key=lambda work: (-work.priority, self._served[work]))
        for work in works:
            assignment = work.take(slot)
            if assignment is not None:
                self._turn += 1
                self._served[work] = self._turn
                return assignment
        return None

    def _drop_finished(self) -> None:
        finished = [work for work in self._works if work.finished]
        for work in finished:
            self._works.remove(work)
            del self._served[work]
        if finished and not self._works:
            self._barred.clear()
            self._start_deaths = 0

    # ----------------------------------------------------------------------- stations

    def _adjust_stations(self) -> None:
        if len(self._ready) == len(self.stations) and not self._loading:
            return  # everybody is here: the usual case, and this runs for every call
        wanted = slots_wanted(self._works, len(self.stations))
        manned = [station for station in self.stations if station.manned]
        waiting = [s for s in manned if s.state is StationState.WAITING]
        surplus = max(0, len(manned) - wanted)
        for station in waiting[::-1][:surplus]:
            station.withdraw()
        if wanted > len(manned):
            self._open_stations(wanted - len(manned))
        self._loading = sum(station.opening for station in self.stations)
        for work in self._works:
            work.notice_loading(self._loading)

    def _open_stations(self, count: int) -> None:
        free = [s for s in self.stations if not s.manned and s.slot not in self._barred]
        # An offloaded model is back sooner than a new process.
        closed = sorted(
            (s for s in free if s.state in (StationState.ABSENT, StationState.OFFLOADED)),
            key=lambda s: (s.state is not StationState.OFFLOADED, s.slot),
        )
        claims = frozenset[int]().union(*(work.claims for work in self._works))
        for station in closed[:count]:
            station.open(claims)

    def station_opened(self, station: Station) -> None:
        """Its tool is loaded: give it a share of the work."""
        self._start_deaths = 0
        self._ready.add(station.slot)
        for work in self._works:
            work.join(station.slot)
        self.station_idle(station)
        self._adjust_stations()

    def station_idle(self, station: Station) -> None:
        """It has answered: feed it again, or leave it warm.

        Idle others are asked too, because a plan may have kept an item back for this station.
        """
        if self._closing or self._pumping:
            return
        self._feed_idle()
        if station.available:
            station.rest()
            self.pump()

    def station_gone(self, station: Station) -> None:
        """Its worker was evicted, or died: somebody else gets its share."""
        if station.slot in self._ready:
            self._ready.remove(station.slot)
            for work in self._works:
                work.leave(station.slot)
        self.pump()

    def station_failed(self, station: Station, error: Exception) -> None:
        """It got no worker. With nobody else to serve them, its works fail with `error`."""
        if isinstance(error, WorkerDied):
            self._start_deaths += 1
            if self._start_deaths < _START_DEATHS:
                log.warning(
                    "%s died while it started and is started again: %s", station.name, error
                )
                self.pump()
                return
        self._barred.add(station.slot)
        if any(other.manned for other in self.stations):
            log.warning("%s could not be opened, others serve on: %s", station.name, error)
        else:
            for work in list(self._works):
                work.fail(error)
        self.pump()

    def station_broken(self, station: Station, error: Exception) -> None:
        """A bug of ours: end every wait with it rather than leave one hanging."""
        log.error("%s: internal error", station.name, exc_info=error)
        for work in list(self._works):
            work.fail(error)

    # ------------------------------------------------------------------------- ending

    async def aclose(self) -> None:
        """Fail what is left and end every worker, all of them at once."""
        self._closing = True
        error = RequestError(f"the workers of {self.tool.name} were closed before they were done")
        for work in self._works:
            work.fail(error)
        async with anyio.create_task_group() as tasks:
            for station in self.stations:
                tasks.start_soon(station.aclose)
