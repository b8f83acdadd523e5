"""`Station`: the place of one warm worker, from waiting for a device to giving it back.

The slow part of its life (a device, a process, a load, an eviction) runs in tasks of the runtime.
The hot part does not: a reply's callback settles the micro-batch and hands out the next one, so
that between two micro-batches no task is woken and nothing but the channel is awaited.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio

from .. import ambient
from ..devices.allocation import Allocation
from ..errors import ToolOutOfMemory, WorkerDied
from ..policy.offload import OffloadStrategy
from ..policy.station_state import StationState, next_state
from ..ports import NestedCall, Reply, WorkerChannel
from ..promise import Promise
from .assignment import Assignment
from .employer import Employer
from .launcher import Launcher, describe_place
from .nested import NestedCalls
from .opening import Opening
from .renewal import Renewal
from .site import Site
from .tool import Tool

__all__ = ["Station"]

log = logging.getLogger("asyncgpu.tools")


class Station:
    """One slot of a crew."""

    def __init__(
        self,
        slot: int,
        tool: Tool,
        launcher: Launcher,
        employer: Employer,
        site: Site,
    ) -> None:
        """Make the slot; `open` gives it a worker."""
        self.slot = slot
        self.lent = False
        """It only serves who waits while others wait for him: nested calls."""
        self.claims: frozenset[int] = frozenset()
        """Held by those it was opened for."""
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
        self._site = site
        self._renewal = Renewal(tool, launcher, self, site)
        self._nested = NestedCalls(tool, launcher.start_soon, employer.serve)
        self._allocation: Allocation | None = None
        self._channel: WorkerChannel | None = None
        self._opening = Opening()

    @property
    def name(self) -> str:
        """What the device queue, logs and timelines call it."""
        return f"{self._tool.name}[{self.slot}]"

    @property
    def place(self) -> str:
        """Its devices: ``"cuda:0"``, ``"cpu"``, or ``"-"`` while it holds none."""
        return "-" if self._allocation is None else describe_place(self._allocation.indices)

    @property
    def channel(self) -> WorkerChannel | None:
        """The way to its worker; None: it has none."""
        return self._channel

    @property
    def pid(self) -> int | None:
        return None if self._channel is None else self._channel.pid

    @property
    def indices(self) -> tuple[int, ...]:
        """Its devices; empty: the CPU, or none yet."""
        return () if self._allocation is None else self._allocation.indices

    @property
    def claim(self) -> int | None:
        """The claim that it holds; None: it has no worker."""
        return None if self._allocation is None else self._allocation.id

    @property
    def serves(self) -> bool:
        """Whether its worker is here, or loads, and is to stay."""
        if self.state not in (StationState.STARTING, StationState.IDLE, StationState.BUSY):
            return False
        return self._allocation is not None and not self._allocation.evicting

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

    def open(self, claims: frozenset[int], only: frozenset[int] | None = None) -> None:
        """Begin to get one of the devices `only` and a worker, for callers that hold `claims`."""
        offloaded = self.state is StationState.OFFLOADED
        self.claims = claims
        self._to("seek")
        self._opening = Opening()
        self._launcher.start_soon(self._open, only, offloaded)

    def withdraw(self) -> None:
        """Stop waiting for a device, if that is what it does: nobody needs it any more."""
        if self.state is StationState.WAITING:
            self._opening.give_up()

    async def _open(self, only: frozenset[int] | None, offloaded: bool) -> None:
        ambient.claims.set(self.claims)
        with self._report_opening():
            if await self._get_device(only, "kept" if offloaded else "withdrawn"):
                await self._get_worker(self._restore if offloaded else self._launch)

    @contextmanager
    def _report_opening(self) -> Iterator[None]:
        """Have the crew hear how the opening inside the block ends."""
        opening = self._opening
        try:
            with opening.under_way():
                yield
        except Exception as error:  # noqa: BLE001 - nobody is above this task: the crew must know
            self._employer.station_broken(self, error)
        if opening.given_up and not self.manned:
            self._employer.station_gone(self)

    async def _get_device(self, only: frozenset[int] | None, otherwise: str) -> bool:
        """Wait for the device; without one, the station's life goes on with `otherwise`."""
        began = self._launcher.clock()
        try:
            self._allocation = await self._site.acquire(self, only=only)
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

    async def _get_worker(self, get: Callable[[], Awaitable[None]]) -> None:
        try:
            await get()
        except BaseException as error:
            if self._channel is not None:
                with anyio.CancelScope(shield=True):
                    await self._channel.stop(grace=0)
            self._forget_worker()
            self._to("failed")
            if not isinstance(error, Exception):
                raise
            self._employer.station_failed(self, error)
            return
        self._to("ready")  # not marked idle: a worker that just loaded is no victim
        self._employer.station_opened(self)

    async def _launch(self) -> None:
        assert self._allocation is not None
        channel = await self.launch(self._allocation.indices)
        self._employ(channel)
        await self._renewal.begin(channel)

    async def launch(self, indices: tuple[int, ...]) -> WorkerChannel:
        """Return a worker of its tool on these devices, which is not its own yet."""
        began = self._launcher.clock()
        name = f"{self.name}@{describe_place(indices)}"
        channel = await self._launcher.launch(self._tool, indices, name)
        self._span("load", began, "load", pid=channel.pid)
        return channel

    def _employ(self, channel: WorkerChannel) -> None:
        self._channel = channel
        self.loads += 1
        channel.on_exit(partial(self._on_exit, channel))
        channel.on_call(self._on_call)

    async def _restore(self) -> None:
        """Bring an offloaded model back; a process that cannot is replaced."""
        assert self._channel is not None
        assert self._allocation is not None
        began = self._launcher.clock()
        indices = self._allocation.indices
        names = self._launcher.device_names(self._tool, indices)
        reply = await self._channel.move(names, indices)
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
        if reply.error is not None and isinstance(reply.error, ToolOutOfMemory):
            reply.error.device = self.place
            self._employer.out_of_memory(self, assignment, reply)
        else:
            assignment.work.settle(assignment, reply)
        if died:
            self._employer.station_gone(self)
        elif not (self._renewal.wanted and self._renewal.answered()):
            self._employer.station_idle(self)

    def _count(self, assignment: Assignment, reply: Reply) -> None:
        now, count = self._launcher.clock(), len(assignment.items)
        self.busy_seconds += now - assignment.started
        self.items += count if reply.error is None else 0
        self._span(f"run {count} items", assignment.started, "run", end=now, items=count)

    def _on_call(self, call: NestedCall) -> None:
        self._nested.take(call, self.assignment, self.claim)

    def rest(self) -> None:
        """Nothing to do: stay warm, and let the device table evict it if it must."""
        if self._allocation is not None:
            self._allocation.mark_idle()

    # ---------------------------------------------------------------------- replacing

    def exchange(
        self, channel: WorkerChannel, allocation: Allocation | None
    ) -> tuple[WorkerChannel, Allocation | None]:
        """Go on with another worker; return the old one, and its devices if the new has its own."""
        assert self._channel is not None
        old, left = self._channel, None
        if allocation is not None:
            left, self._allocation = self._allocation, allocation
            if self.state is StationState.IDLE:
                allocation.mark_idle()
        self._employ(channel)
        return old, left

    def restart(self) -> bool:
        """Stop the idle worker and start another one in its place; False: it is to leave."""
        if self._allocation is None or not self._allocation.mark_busy():
            return False
        self._to("recycle")
        self._opening = Opening(holds=True)
        self._launcher.start_soon(self._restart)
        self._employer.station_gone(self)
        return True

    async def _restart(self) -> None:
        with self._report_opening():
            await self._get_worker(self._relaunch)

    async def _relaunch(self) -> None:
        assert self._channel is not None
        channel, self._channel = self._channel, None
        with anyio.CancelScope(shield=True):
            await channel.stop()
        await self._launch()

    # ------------------------------------------------------------------------- ending

    async def evict(self, strategy: OffloadStrategy) -> None:
        """Give the device back, because the device table says so."""
        if self.opening:
            await self._opening.end()
        elif self.assignment is not None:
            assert self._channel is not None
            self.assignment.preempted = True  # it will run again elsewhere
            await self._channel.stop(grace=0)
        elif self.state is StationState.IDLE:
            await self._leave(strategy)

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
                self._renewal.abandon()
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
        await self._renewal.aclose()
        if self.opening:
            await self._opening.end()
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

    def _on_exit(self, channel: WorkerChannel, error: Exception) -> None:
        """The worker ended by itself; one that was busy is reported by its reply."""
        if channel is not self._channel:
            return  # it was replaced
        if self.state in (StationState.IDLE, StationState.OFFLOADED):
            log.warning("%s: %s", self.name, error)
            self._forget_worker()
            self._to("lost")
            self._employer.station_gone(self)

    # ------------------------------------------------------------------------ helpers

    def _forget_worker(self) -> None:
        self._channel = None
        self._renewal.abandon()
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
