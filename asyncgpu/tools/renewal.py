"""`Renewal`: another worker in the place of one that has served long enough.

Where there is room for both, on the CPU or in declared memory beside the old one, the new one loads
while the old one serves on, and nobody waits. Elsewhere the old one has to go first.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from ..devices.allocation import Allocation
from ..errors import WorkerDied
from ..policy.offload import OffloadStrategy
from ..policy.recycling import Recycling
from ..ports import WorkerChannel
from .launcher import Launcher
from .site import Site
from .tool import Tool

if TYPE_CHECKING:
    from .station import Station

__all__ = ["Renewal"]

log = logging.getLogger("asyncgpu.tools")


class Renewal:
    """Watches the age of a station's worker, and has it replaced."""

    def __init__(self, tool: Tool, launcher: Launcher, station: Station, site: Site) -> None:
        """Begin without a worker.

        Raises:
            InvalidRequest: the tool's limits mean nothing.
        """
        self._recycling = Recycling(tool.recycle_after, tool.recycle_memory)
        self.wanted = self._recycling.wanted
        """Whether there is anything to do here; asked after each call."""
        self._launcher = launcher
        self._station = station
        self._site = site
        self._heir: _Heir | None = None
        self._weighing = False

    async def begin(self, channel: WorkerChannel) -> None:
        """Watch a worker that has just loaded."""
        self._recycling.renew()
        if self._recycling.weighs:
            self._recycling.measured((await channel.statistics()).resident_memory)

    def answered(self) -> bool:
        """Count a call, between two calls; return whether the worker leaves now."""
        self._recycling.served()
        if self._heir is not None:
            self._heir.succeed()
        elif self._recycling.due:
            return self._replace()
        elif self._recycling.weighs and not self._weighing:
            self._weighing = True
            self._launcher.start_soon(self._weigh, self._station.channel)
        return False

    def abandon(self) -> None:
        """There is nobody to be replaced any more."""
        if self._heir is not None:
            self._heir.give_up()

    async def aclose(self) -> None:
        """End what is under way, and wait for it."""
        if self._heir is not None:
            self._heir.give_up()
            await self._heir.over.wait()

    async def _weigh(self, channel: WorkerChannel) -> None:
        try:
            statistics = await channel.statistics()
        except WorkerDied:
            return
        finally:
            self._weighing = False
        if channel is self._station.channel:
            self._recycling.measured(statistics.resident_memory)
            if self._recycling.due and self._heir is None and self._station.available:
                self._replace()

    def _replace(self) -> bool:
        """Begin to replace the worker of the idle station; return whether it leaves at once."""
        indices = self._station.indices
        if not self._site.has_room_beside(indices):
            return self._station.restart()
        self._heir = _Heir(self._station)
        self._launcher.start_soon(self._bring_up, self._heir, indices)
        return False

    async def _bring_up(self, heir: _Heir, indices: tuple[int, ...]) -> None:
        try:
            with heir.scope:
                if indices:
                    heir.allocation = await self._site.acquire_beside(heir, indices)
                heir.channel = await self._station.launch(indices)
                await self.begin(heir.channel)
                heir.succeed()
                await heir.succeeded.wait()
        except Exception as error:  # noqa: BLE001 - the old worker is as good as before
            log.warning("%s could not be replaced and serves on: %s", self._station.name, error)
            self._recycling.renew()
        finally:
            with anyio.CancelScope(shield=True):
                await heir.clear_away()
            self._heir = None
            heir.over.set()


class _Heir:
    """A worker that is to take the place of another; the owner of the devices it was given."""

    def __init__(self, station: Station) -> None:
        self.channel: WorkerChannel | None = None
        """The new worker; once it has succeeded, the old one."""
        self.allocation: Allocation | None = None
        self.scope = anyio.CancelScope()
        self.succeeded = anyio.Event()
        self.over = anyio.Event()
        self._station = station

    @property
    def name(self) -> str:
        return self._station.name

    async def evict(self, strategy: OffloadStrategy) -> None:
        """Leave the devices: as what it is by now."""
        if self.succeeded.is_set():
            await self._station.evict(strategy)
        else:
            self.scope.cancel()
            await self.over.wait()

    def succeed(self) -> None:
        """Take over, if it is loaded and the station is between two calls."""
        if self.channel is None or self.succeeded.is_set() or not self._station.available:
            return
        if not self.channel.alive:
            self.give_up()
            return
        self.channel, self.allocation = self._station.exchange(self.channel, self.allocation)
        self.succeeded.set()

    def give_up(self) -> None:
        """Nobody is to be replaced any more."""
        self.scope.cancel()

    async def clear_away(self) -> None:
        """End the one of both that has no place any more, and give its devices back."""
        if self.channel is not None:
            await self.channel.stop(grace=None if self.succeeded.is_set() else 0)
        if self.allocation is not None:
            self.allocation.release()
