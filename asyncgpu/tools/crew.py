"""`Crew`: the stations of one tool, and the work that waits for them.

Which micro-batch goes to which station is decided here, in the loop's thread and without an await:
the work of highest priority first, works of equal priority in turns, so that a single call never
waits for the end of a batch of ten thousand.
"""

from __future__ import annotations

import logging

import anyio

from ..errors import (
    AdmissionRejected,
    InfeasibleRequest,
    RequestError,
    WorkerDied,
    WorkerStartTimeout,
)
from ..policy.batch import PlanStats
from ..policy.station_state import StationState
from ..ports import Reply
from .assignment import Assignment
from .launcher import Launcher
from .nested import Serve
from .oversize import Oversize
from .site import Site
from .station import Station
from .tool import Tool
from .work import Work, slots_wanted

__all__ = ["Crew"]

log = logging.getLogger("asyncgpu.tools")


class Crew:
    """All workers of one tool in one pool or persist block."""

    def __init__(
        self, tool: Tool, seats: int, launcher: Launcher, site: Site, serve: Serve
    ) -> None:
        """Hire nobody yet.

        Args:
            tool: what its workers load.
            seats: the most stations it may have, but for those it lends to nested calls.
            launcher: starts their processes.
            site: where they may stand.
            serve: answers what their tool asks of other tools.

        Raises:
            InvalidRequest: the tool has an attribute that means nothing.
        """
        self.tool = tool
        self.serve = serve
        self._key = (tool.identity, tool.device)
        self._seats = seats
        self._launcher = launcher
        self.site = site
        self.stations = [Station(slot, tool, launcher, self, site) for slot in range(seats)]
        self.seconds_per_cost: float | None = None
        """As the latest run measured it; None: nothing was measured yet."""
        self._works: list[Work] = []
        self._served: dict[Work, int] = {}
        self._ready: set[int] = set()
        self._turn = 0
        self._loading = 0
        self._barred: set[int] = set()
        self._oversize = Oversize(self.out_of_memory)
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
                if self._may_serve(slot, work):
                    work.join(slot)
        self.pump()

    def pump(self) -> None:
        """Feed every idle station, then open or withdraw stations to fit what is left."""
        if self._closing or self._pumping:
            return
        self._pumping = True  # a reply in mid-pump (an item that cannot be sent) must not re-enter
        try:
            if self._oversize.awaited is not None:
                self._oversize.settle()
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
        lent = self.stations[slot].lent
        for work in works:
            if lent and not work.claims:
                continue
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

    # ------------------------------------------------------------------- nested calls

    @property
    def serving(self) -> frozenset[int]:
        """The claims of the workers that are here and will serve whoever waits."""
        return frozenset(s.claim for s in self.stations if s.claim is not None and s.serves)

    def could_open(self, held: frozenset[int], staying: frozenset[int]) -> bool:
        """Return whether one more worker could come, for a caller that holds `held`.

        Args:
            held: the caller's claims.
            staying: claims that will never end.
        """
        if not self.site.needs_devices:
            return True  # the seat of one that waits is lent
        free = [s for s in self.stations if not s.serves and s.slot not in self._barred]
        fresh = any(s.state is not StationState.WAITING for s in free)
        return bool(free) and self.site.could_open(held, staying, reuse=fresh)

    def lend_seats(self) -> None:
        """On the CPU, let another worker have the seat of one that waits for a nested call.

        It does not compute meanwhile. So there is always somebody for the calls it waits for, and
        only for these: whatever else there is to do stays within the seats.
        """
        if self.site.needs_devices:
            return
        held = self._launcher.waits.held
        blocked = sum(station.claim in held for station in self.stations)
        missing = self._seats + blocked - len(self.stations)
        for _ in range(missing):
            self._add_station().lent = True
        if missing > 0:
            self.pump()

    def _add_station(self) -> Station:
        slot = len(self.stations)
        self.stations.append(Station(slot, self.tool, self._launcher, self, self.site))
        return self.stations[slot]

    def _may_serve(self, slot: int, work: Work) -> bool:
        return not self.stations[slot].lent or bool(work.claims)

    # ----------------------------------------------------------------------- stations

    def _adjust_stations(self) -> None:
        if len(self._ready) == len(self.stations) and not self._loading:
            return  # everybody is here: the usual case, and this runs for every call
        wanted = self._wanted()
        manned = [station for station in self.stations if station.manned]
        needed = self._oversize.awaited
        waiting = [s for s in manned if s.state is StationState.WAITING and s is not needed]
        surplus = max(0, len(manned) - wanted)
        for station in waiting[::-1][:surplus]:
            station.withdraw()
        if wanted > len(manned):
            self._open_stations(wanted - len(manned), manned)
        self._loading = sum(station.opening for station in self.stations)
        for work in self._works:
            work.notice_loading(self._loading)

    def _wanted(self) -> int:
        """Return how many stations are worth having."""
        wanted = slots_wanted(self._works, self._seats) + (self._oversize.awaited is not None)
        if len(self.stations) > self._seats:
            nested = [work for work in self._works if work.claims]
            wanted += slots_wanted(nested, len(self.stations) - self._seats)
        return wanted

    def _open_stations(self, count: int, manned: list[Station]) -> None:
        now = self._launcher.clock()
        under_way = sum(station.opening for station in manned)
        allowed = self._launcher.crashes.may_start(self._key, count, under_way, now)
        for station in self._closed_stations()[:allowed]:
            station.open(self._claims())
        if not allowed and not manned:
            self._refuse_all(now)

    def _claims(self) -> frozenset[int]:
        """Return what those hold who wait for its workers."""
        return frozenset[int]().union(*(work.claims for work in self._works))

    def _closed_stations(self) -> list[Station]:
        """Return those that could be opened; an offloaded model is back before a new process."""
        closed = (StationState.ABSENT, StationState.OFFLOADED)
        return sorted(
            (s for s in self.stations if s.state in closed and s.slot not in self._barred),
            key=lambda s: (s.state is not StationState.OFFLOADED, s.slot),
        )

    def station_opened(self, station: Station) -> None:
        """Its tool is loaded: give it a share of the work."""
        self._launcher.crashes.succeeded(self._key)
        self._ready.add(station.slot)
        for work in self._works:
            if self._may_serve(station.slot, work):
                work.join(station.slot)
        self._oversize.settle()
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
        """Its worker was evicted, died or is being replaced: somebody else gets its share."""
        if station.slot in self._ready:
            self._ready.remove(station.slot)
            for work in self._works:
                if self._may_serve(station.slot, work):
                    work.leave(station.slot)
        self.pump()

    def out_of_memory(self, station: Station, assignment: Assignment, reply: Reply) -> None:
        """What it ran did not fit: have its work split it, or find it a larger device.

        A single item is not given up before a larger device was tried, so if there is one without
        a worker, the work hears of its item's failure only when a worker has been opened there.
        """
        ready = [s for s in self.stations if s.slot in self._ready]
        memory_of, most = self.site.memory_of, self.site.memory_of(station.indices)
        assignment.unfit = frozenset(s.slot for s in ready if memory_of(s.indices) <= most)
        larger = self.site.larger_than(station.indices)
        alone = len(assignment.items) == 1 and not assignment.cancelled
        reached = any(larger.issuperset(s.indices) for s in ready)
        if alone and larger and not reached and not assignment.sought_larger:
            kept_for = self._open_larger(assignment, larger)
            self._oversize.keep(station, assignment, reply, kept_for)
        else:
            assignment.work.settle(assignment, reply)

    def _open_larger(self, assignment: Assignment, devices: frozenset[int]) -> Station:
        """Return a station that may come to stand on one of `devices`."""
        opening = next((s for s in self.stations if s.opening), None)
        if opening is not None:
            return opening
        assignment.sought_larger = True
        closed = self._closed_stations()
        if not closed:
            self._seats += 1  # beside the others, which all have their place
        station = closed[0] if closed else self._add_station()
        station.open(self._claims(), devices)
        return station

    def station_failed(self, station: Station, error: Exception) -> None:
        """It got no worker. With nobody else to serve them, its works fail with `error`."""
        if isinstance(error, (WorkerDied, WorkerStartTimeout)):
            if self._crashed(station, error):
                self.pump()
                return
        else:
            self._barred.add(station.slot)
        if any(other.manned for other in self.stations):
            log.warning("%s could not be opened, others serve on: %s", station.name, error)
        elif isinstance(error, InfeasibleRequest) and station.claims:
            # It may be what these callers hold that makes it so; others can wait for that.
            self._barred.discard(station.slot)
            self._fail([work for work in self._works if work.claims], error)
        else:
            self._fail(self._works, error)
        self.pump()

    def _crashed(self, station: Station, error: WorkerDied | WorkerStartTimeout) -> bool:
        """Count a death or a timeout; return whether to try again at once."""
        crashes, now = self._launcher.crashes, self._launcher.clock()
        again = crashes.failed(self._key, now, str(error))
        # A timeout took long enough for those who wait.
        if again and isinstance(error, WorkerDied):
            log.warning("%s died while it started and is started again: %s", station.name, error)
            return True
        loop = crashes.find(self._key)
        if not again and loop is not None:
            error.add_note(
                f"{loop.failures} starts in a row have failed;"
                f" the next is in {loop.retry_after(now):.3g} s"
            )
        return False

    def _refuse_all(self, now: float) -> None:
        """Nothing is started for a while: let everybody come back later."""
        loop = self._launcher.crashes.find(self._key)
        assert loop is not None
        error = AdmissionRejected(
            f"{self.tool.name}: the last {loop.failures} starts of its workers failed;"
            f" the latest: {loop.why}",
            retry_after=loop.retry_after(now),
        )
        self._fail(self._works, error)

    def _fail(self, works: list[Work], error: Exception) -> None:
        self._oversize.drop()
        for work in list(works):
            work.fail(error)

    def station_broken(self, station: Station, error: Exception) -> None:
        """A bug of ours: end every wait with it rather than leave one hanging."""
        log.error("%s: internal error", station.name, exc_info=error)
        self._fail(self._works, error)

    # ------------------------------------------------------------------------- ending

    async def aclose(self) -> None:
        """Fail what is left and end every worker, all of them at once."""
        self._closing = True
        error = RequestError(f"the workers of {self.tool.name} were closed before they were done")
        self._fail(self._works, error)
        async with anyio.create_task_group() as tasks:
            for station in self.stations:
                tasks.start_soon(station.aclose)
