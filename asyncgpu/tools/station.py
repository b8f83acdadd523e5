"""`Station`: the place of one warm worker, from waiting for a device to giving it back.

The slow part of its life (a device, a process, a load, an eviction) runs in tasks of the runtime.
The hot part does not: a reply's callback settles the micro-batch and hands out the next one, so
that between two micro-batches no task is woken and nothing but the channel is awaited.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import anyio

from .. import ambient
from ..devices.allocation import Allocation
from ..errors import WorkerDied
from ..policy.offload import OffloadStrategy
from ..policy.station_state import StationState, next_state
from ..ports import Reply, WorkerChannel
from ..promise import Promise
from .assignment import Assignment
from .launcher import Launcher, describe_place
from .tool import Tool

__all__ = ["Employer", "Station"]

log = logging.getLogger("asyncgpu.tools")


class Employer(Protocol):
    """The crew, as a station sees it. Every call comes from the loop's thread."""

    def station_opened(self, station: Station) -> None:
        """Its tool is loaded."""
        ...

    def station_idle(self, station: Station) -> None:
        """It has answered: feed it, or let it rest."""
        ...

    def station_failed(self, station: Station, error: Exception) -> None:
        """It got no device, no process, or the tool did not load."""
        ...

    def station_gone(self, station: Station) -> None:
        """Its worker is gone: evicted, or dead."""
        ...

    def station_broken(self, station: Station, error: Exception) -> None:
        """A bug of ours: nobody may wait for this station for ever."""
        ...


class Station:
    """One slot of a crew."""

    def __init__(
        self,
        slot: int,
        tool: Tool,
        launcher: Launcher,
        employer: Employer,
        acquire: Callable[[Station], Any],
    ) -> None:
        """Open the slot; `acquire` is a coroutine function that waits for its device."""
        self.slot = slot
        self.state = StationState.ABSENT
        self.assignment: Assignment | None = None
        self.items = 0
        self.busy_seconds = 0.0
        self.loads = 0
        self.steals = 0
        self.retries = 0
        self._tool = tool
        self._launcher = launcher
        self._employer = employer
        self._acquire = acquire
        self._allocation: Allocation | None = None
        self._channel: WorkerChannel | None = None
        self._opening: anyio.CancelScope | None = None
        self._opened: anyio.Event | None = None

    @property
    def name(self) -> str:
        """What the device queue, logs and timelines call it."""
        return f"{self._tool.name}[{self.slot}]"

    @property
    def place(self) -> str:
        """Its devices: ``"cuda:0"``, ``"cpu"``, or ``"-"`` while it holds none."""
        return "-" if self._allocation is None else describe_place(self._allocation.indices)

    @property
    def pid(self) -> int | None:
        return None if self._channel is None else self._channel.pid

    @property
    def available(self) -> bool:
        """Whether it can be fed now: idle, and not chosen as a victim a moment ago."""
        if self.state is not StationState.IDLE:
            return False
        return self._allocation is None or not self._allocation.evicting

    @property
    def opening(self) -> bool:
        return self.state in (StationState.WAITING, StationState.STARTING)

    @property
    def manned(self) -> bool:
        """Whether a worker is here that serves now or will."""
        return self.opening or self.state in (StationState.IDLE, StationState.BUSY)

    # ------------------------------------------------------------------------ opening

    def open(self, claims: frozenset[int]) -> None:
        """Begin to get a device and a worker; `claims` are held by the task it is for."""
        offloaded = self.state is StationState.OFFLOADED
        self._to("seek")
        self._launcher.start_soon(self._open, claims, offloaded)

    def withdraw(self) -> None:
        """Stop waiting for a device, if that is what it does: nobody needs it any more."""
        if self.state is StationState.WAITING and self._opening is not None:
            self._opening.cancel()

    async def _open(self, claims: frozenset[int], offloaded: bool) -> None:
        ambient.claims.set(claims)
        ended = self._opened = anyio.Event()
        scope = self._opening = anyio.CancelScope()
        try:
            with scope:
                if await self._get_device("kept" if offloaded else "withdrawn"):
                    await self._get_worker(offloaded)
        except Exception as error:  # noqa: BLE001 - nobody is above this task: the crew must know
            self._employer.station_broken(self, error)
        finally:
            ended.set()
        if scope.cancelled_caught:
            self._employer.station_gone(self)

    async def _get_device(self, otherwise: str) -> bool:
        """Wait for the device; without one, the station's life goes on with `otherwise`."""
        began = self._launcher.clock()
        try:
            self._allocation = await self._acquire(self)
        except anyio.get_cancelled_exc_class():
            self._to(otherwise)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the crew decides
            self._to(otherwise)
            self._employer.station_failed(self, error)
            return False
        self._to("granted")
        self._span("wait for a device", began, "queue")
        return True

    async def _get_worker(self, offloaded: bool) -> None:
        try:
            await (self._restore() if offloaded else self._launch())
        except anyio.get_cancelled_exc_class():
            self._fail()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the crew decides
            self._fail()
            self._employer.station_failed(self, error)
            return
        self._to("ready")
        # Not marked idle before it was of use: a worker that just loaded is no victim.
        self._employer.station_opened(self)

    def _fail(self) -> None:
        self._forget_worker()
        self._to("failed")

    async def _launch(self) -> None:
        assert self._allocation is not None
        began = self._launcher.clock()
        indices = self._allocation.indices
        name = f"{self.name}@{describe_place(indices)}"
        self._channel = await self._launcher.launch(self._tool, indices, name)
        self._channel.on_exit(self._on_exit)
        self.loads += 1
        self._span("load", began, "load", pid=self._channel.pid)

    async def _restore(self) -> None:
        """Bring an offloaded model back; a process that cannot is replaced."""
        assert self._channel is not None
        assert self._allocation is not None
        began = self._launcher.clock()
        reply = await self._channel.move(
            self._launcher.device_names(self._tool, self._allocation.indices)
        )
        if reply.error is None:
            self._span("restore", began, "load")
            return
        log.warning("%s could not be restored and is restarted: %s", self.name, reply.error)
        channel, self._channel = self._channel, None
        await channel.stop(grace=0)
        await self._launch()

    # ------------------------------------------------------------------------ serving

    def feed(self, assignment: Assignment) -> None:
        """Send a micro-batch to the idle worker; its reply goes to the assignment's work."""
        assert self._channel is not None
        self._to("feed")
        if self._allocation is not None:
            self._allocation.mark_busy()
        self.assignment = assignment
        promise = assignment.send(self._channel, self._launcher.clock())
        if assignment.limit is not None:
            watch = partial(assignment.kill_after, assignment.limit, timed_out=True)
            self._launcher.start_soon(watch)
        promise.add_done_callback(self._on_reply)

    def _on_reply(self, promise: Promise[Reply]) -> None:
        try:
            self._answered(promise.result())
        except Exception as error:  # noqa: BLE001 - nor above a callback
            self._employer.station_broken(self, error)

    def _answered(self, reply: Reply) -> None:
        assignment, self.assignment = self.assignment, None
        assert assignment is not None
        assignment.close()
        self._count(assignment, reply)
        died = isinstance(reply.error, WorkerDied)
        if died:
            self._forget_worker()
        self._to("lost" if died else "answered")
        assignment.work.settle(assignment, reply)
        if died:
            self._employer.station_gone(self)
        else:
            self._employer.station_idle(self)

    def _count(self, assignment: Assignment, reply: Reply) -> None:
        now, count = self._launcher.clock(), len(assignment.items)
        self.busy_seconds += now - assignment.started
        self.items += count if reply.error is None else 0
        self._span(f"run {count} items", assignment.started, "run", end=now, items=count)

    def rest(self) -> None:
        """Nothing to do: stay warm, and let the device table evict it if it must."""
        if self._allocation is not None:
            self._allocation.mark_idle()

    # ------------------------------------------------------------------------- ending

    async def evict(self, strategy: OffloadStrategy) -> None:
        """Give the device back, because the device table says so."""
        if self.opening:
            await self._stop_opening()
        elif self.assignment is not None:
            await self._preempt(self.assignment)
        elif self.state is StationState.IDLE:
            await self._leave(strategy)

    async def _preempt(self, assignment: Assignment) -> None:
        """End the worker in the middle of a micro-batch, which will run again elsewhere."""
        assert self._channel is not None
        assignment.preempted = True
        await self._channel.stop(grace=0)

    async def _stop_opening(self) -> None:
        assert self._opening is not None
        assert self._opened is not None
        self._opening.cancel()
        await self._opened.wait()

    async def _leave(self, strategy: OffloadStrategy) -> None:
        self._to("evict")
        began = self._launcher.clock()
        channel = self._channel
        assert channel is not None
        if strategy is OffloadStrategy.CPU and self._tool.movable:
            reply = await channel.move(["cpu"])
            if reply.error is None:
                self._span("offload", began, "load")
                self._allocation = None
                self._to("offloaded")
                self._employer.station_gone(self)
                return
            log.warning("%s could not be offloaded and is stopped: %s", self.name, reply.error)
        await channel.stop()
        if self.state is StationState.EVICTING:  # else the crew was closed meanwhile
            self._span("evicted", began, "load")
            self._forget_worker()
            self._to("stopped")
            self._employer.station_gone(self)

    async def aclose(self) -> None:
        """Stop the worker and give the device back, whatever it is doing."""
        if self.opening:
            await self._stop_opening()
        channel = self._channel
        if channel is None:
            return
        if self.state is StationState.BUSY:
            channel.kill()
        elif self.state is not StationState.EVICTING:
            self._to("evict")
        await channel.stop()
        if self.state is StationState.EVICTING:
            self._forget_worker()
            self._to("stopped")

    def _on_exit(self, error: Exception) -> None:
        """The worker ended by itself; one that was busy is reported by its reply."""
        if self.state in (StationState.IDLE, StationState.OFFLOADED):
            log.warning("%s: %s", self.name, error)
            self._forget_worker()
            self._to("lost")
            self._employer.station_gone(self)

    # ------------------------------------------------------------------------ helpers

    def _forget_worker(self) -> None:
        self._channel = None
        if self._allocation is not None:
            allocation, self._allocation = self._allocation, None
            allocation.release()

    def _to(self, event: str) -> None:
        self.state = next_state(self.state, event)

    def _span(
        self, name: str, start: float, category: str, *, end: float | None = None, **args: Any
    ) -> None:
        self._launcher.timeline.add(
            track=f"{self.place} {self.name}",
            name=name,
            start=start,
            end=self._launcher.clock() if end is None else end,
            category=category,
            **args,
        )
