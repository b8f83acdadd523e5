"""`Lookout`: tells the device table what other programs do, and which devices are gone.

Nobody announces any of that: a lock is given back, memory freed and a GPU lost without a word to
us. So it looks again and again, but only while somebody waits for it or holds something, and
never in the way of the event loop. Blocking threads would learn of a lock sooner, but a thread in
``flock`` cannot be cancelled, and would hold up the end of the program.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from ..policy.device_inputs import ClaimKind, DeviceInput, LocksTried, Lost, Measured, Shape
from ..policy.device_table import DeviceTable
from ..promise import Promise, new_promise, resolve
from .locks import DeviceLocks
from .memories import DeviceMemories
from .readings import Readings

__all__ = ["Lookout"]

# How soon a waiter learns of a lock that another program gave back (trying takes microseconds),
# of memory that one freed, and of a device that is lost; and how soon a holder learns of that.
_LOCK_SECONDS = 0.05
_MEMORY_SECONDS = 0.1
_LOST_SECONDS = 1.0
_IDLE_SECONDS = 5.0


class Lookout:
    """What happens outside this program, as far as its device table must know. Used in its loop."""

    def __init__(
        self,
        table: DeviceTable,
        tell: Callable[[DeviceInput], None],
        *,
        readings: Readings | None,
        locks: DeviceLocks | None,
        memories: DeviceMemories | None,
    ) -> None:
        """Look for `table`.

        Args:
            table: decides what comes of it.
            tell: gives the table an input and performs its actions.
            readings: what the driver says; None: memory and losses are not looked for.
            locks: those of the devices; None: devices are not locked.
            memories: what contexts use, which no other program does.
        """
        self._table = table
        self._tell = tell
        self._readings = readings
        self._locks = locks
        self._memories = memories
        self._pause: float | None = None
        self._wake: Promise[None] | None = None
        self._suspected = False
        self._closed = False

    async def run(self) -> None:
        """Look, as long as there is anything to look for, until `close`."""
        while not self._closed:
            self._pause = self._interval()
            self._wake = new_promise()
            with anyio.move_on_after(self._pause):
                await self._wake
            self._wake = None
            await self._look_around()

    async def _look_around(self) -> None:
        if self._closed:
            return
        self.try_locks(wanted=True)
        squeezed = self._table.occupancy.squeezed and self._table.has_waiters
        readings = self._readings
        if readings is not None and (self._suspected or squeezed or not readings.fresh):
            await self.look(readings)

    def close(self) -> None:
        """End `run`."""
        self._closed = True
        self.changed()

    def changed(self) -> None:
        """The table has changed: there may be something to look for, or more urgently."""
        if self._wake is None:
            return
        interval = self._interval()
        sooner = interval is not None and (self._pause is None or interval < self._pause)
        if sooner or self._closed:
            resolve(self._wake, None)

    def suspect(self) -> None:
        """Look soon: a device may be lost."""
        self._suspected = self._readings is not None
        self.changed()

    async def prepare(self, shape: Shape) -> None:
        """Let the table know what it needs for a request of `shape`."""
        if shape.spec.is_cpu:
            return
        self.try_locks(wanted=False)
        if self._readings is None or self._readings.fresh:
            return
        if shape.kind is ClaimKind.CONTEXT or not (shape.vram or self._table.packing):
            # What it needs, no other program can take from it; but is the device still there?
            self.suspect()
        else:
            await self.look(self._readings)

    def try_locks(self, *, wanted: bool) -> None:
        """Try again to lock what other programs had.

        Args:
            wanted: only what somebody waits for.
        """
        if self._locks is None:
            return
        if taken := self._table.taken(wanted=wanted):
            self._tell(self._locks.take(taken))

    def lock(self, indices: tuple[int, ...]) -> LocksTried:
        """Lock devices, as far as other programs let us."""
        assert self._locks is not None
        return self._locks.take(indices)

    def unlock(self, indices: tuple[int, ...]) -> None:
        """Let other programs have devices again."""
        assert self._locks is not None
        self._locks.give_back(indices)

    async def look(self, readings: Readings) -> None:
        """Ask the driver about every device, and tell the table."""
        self._suspected = False
        devices = self._table.occupancy.devices
        before = {index: self._ours(index) for index in devices}
        await readings.refresh()
        for index, reason in readings.lost.items():
            if devices[index].lost is None:
                self._tell(Lost(index, reason))
        for index, used in readings.used.items():
            # Whoever left while the driver was asked may have been counted, or not.
            ours = max(before[index], self._ours(index))
            unplanned = readings.totals[index] - devices[index].capacity
            others = max(0, used - ours - unplanned)
            if others != devices[index].others:
                self._tell(Measured(index, others))

    def _ours(self, index: int) -> int:
        contexts = 0 if self._memories is None else self._memories.used(index)
        return self._table.declared(index) + contexts

    def _interval(self) -> float | None:
        table = self._table
        if table.occupancy.taken and table.taken(wanted=True):
            return _LOCK_SECONDS
        if self._suspected:
            return 0.0
        if self._readings is None or not table.in_use:
            return None
        if not table.has_waiters:
            return _IDLE_SECONDS
        return _MEMORY_SECONDS if table.occupancy.squeezed else _LOST_SECONDS
