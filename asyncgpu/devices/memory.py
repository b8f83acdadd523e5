"""`DeviceMemory`: the memory of one device: its ledger, and those who wait for room in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import anyio
import anyio.to_thread

from ..errors import InfeasibleRequest
from ..home_loop import HomeLoop
from ..policy.qos import QoSPolicy
from ..policy.room import Demand, RoomQueue
from ..ports import MemoryLedger
from ..promise import Promise, new_promise, resolve
from ..units import format_size
from .ledger import LockedLedger

__all__ = ["DeviceMemory", "Relief"]

# Freed tensors come back to torch's cache, and other programs' memory to the driver, and neither
# tells us. Looked for only while somebody waits for room that no wake-up may ever announce.
_LOOK_AGAIN_SECONDS = 0.1


class Relief(Protocol):
    """Makes room on a device, as far as that can be done; never raises."""

    async def __call__(
        self, device: DeviceMemory, lacking: Callable[[], int], *, ask: bool
    ) -> None:
        """Go on until `lacking` is 0; with `ask`, whoever uses the memory is asked for it too."""
        ...


class DeviceMemory:
    """Hands out room on one device, in the order of QoS classes. Used in the runtime's loop.

    Args:
        index: logical index of the device.
        budget: bytes that this program may plan with.
        ledger: who has which part of them.
        free_memory: bytes the driver reports free; may block.
        ageing_seconds: the wait that makes up for one QoS class.
        clock: seconds; never goes back.
        loop: the runtime's.
    """

    def __init__(
        self,
        index: int,
        budget: int,
        *,
        ledger: MemoryLedger,
        free_memory: Callable[[], int],
        ageing_seconds: float,
        clock: Callable[[], float],
        loop: HomeLoop,
    ) -> None:
        self.index = index
        self.budget = budget
        self.ledger = ledger
        self.relief: Relief | None = None
        """Asked before somebody is made to wait: contexts have caches to drop, and handlers."""
        self._free_memory = free_memory
        self._clock = clock
        self._loop = loop
        self._shares = _Shares(ledger)
        self._queue = RoomQueue(self._shares, ageing_seconds=ageing_seconds)
        self._promises: dict[object, Promise[None]] = {}
        self._kept = 0
        self._squeezed = False
        self._serving_soon = False
        self._hears_credits = isinstance(ledger, LockedLedger)
        if isinstance(ledger, LockedLedger):
            ledger.on_credit(self.changed)

    @property
    def name(self) -> str:
        return f"cuda:{self.index}"

    @property
    def available(self) -> int:
        """Bytes that a new reservation could have now; asks the driver, which may block."""
        self._take_in(self._free_memory())
        return self.ledger.available

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._promises)

    def keep_from_contexts(self, nbytes: int) -> None:
        """Leases and residents have declared so much; contexts share the rest."""
        if nbytes != self._kept:
            less = nbytes < self._kept
            self._kept = nbytes
            self.ledger.set_capacity(self.budget - nbytes)
            if less:
                self.changed()

    async def relieve(self, lacking: Callable[[], int], *, ask: bool = True) -> None:
        """Make room until `lacking` is 0, as far as that can be done."""
        if self.relief is not None and lacking() > 0:
            await self.relief(self, lacking, ask=ask)

    def changed(self) -> None:
        """There may be more room now; from any thread, a finaliser included."""
        if not self._promises or self._serving_soon:
            return
        self._serving_soon = True
        if self._loop.here():
            # Not at once: this may be a finaliser in the middle of serving.
            self._loop.soon(self._serve)
        else:
            self._serving_soon = self._loop.call(self._serve)

    # --------------------------------------------------------------------------------- waiting

    async def secure(
        self, account: int, target: int, qos: QoSPolicy, *, timeout: float | None = None
    ) -> None:
        """Wait until `target` bytes are reserved for `account`, which has less.

        If it fails or is cancelled, the caller sets the reservation back to what it was.

        Raises:
            InfeasibleRequest: more than this program may use of the device.
            TimeoutError: there was no room in time.
        """
        if target > self.budget:
            raise InfeasibleRequest(
                f"{self.name}: {format_size(target)} asked, and this program may use "
                f"{format_size(self.budget)} there"
            )
        await self._look()
        if self._queue.head is None and self.ledger.reserve(account, target):
            return
        demand = self._queue.add(account, target, qos, self._clock())
        try:
            with anyio.move_on_after(timeout):
                await self._until(demand, lambda: demand.met, lambda: self._lacking(demand))
        finally:
            self._queue.withdraw(demand)
            self.changed()
        if not demand.met:
            raise TimeoutError(
                f"{self.name}: {format_size(target)} not available within {timeout} s"
            )

    async def until_whole(self) -> None:
        """Wait until contexts use no more than what leases and residents leave them."""
        await self._until(object(), lambda: self._overdrawn() <= 0, self._overdrawn)

    async def _until(
        self, who: object, met: Callable[[], bool], lacking: Callable[[], int]
    ) -> None:
        try:
            ask = True
            while not met():
                await self.relieve(lacking, ask=ask)
                ask = False
                await self._look()
                self._serve()
                if met():
                    return
                # Nobody announces what torch's caches and other programs give back.
                unheard = not self._hears_credits or self._squeezed
                promise = self._promises[who] = new_promise()
                with anyio.move_on_after(_LOOK_AGAIN_SECONDS if unheard else None):
                    await promise
        finally:
            self._promises.pop(who, None)

    def _serve(self) -> None:
        self._serving_soon = False
        for demand in self._queue.serve():
            self._wake(demand)
        if self._overdrawn() <= 0:
            for who in [who for who in self._promises if not isinstance(who, Demand)]:
                self._wake(who)

    def _wake(self, who: object) -> None:
        if (promise := self._promises.get(who)) is not None:
            resolve(promise, None)

    def _lacking(self, demand: Demand) -> int:
        committed = self._shares.commitment(demand.account)
        return max(0, demand.target - committed - self.ledger.available)

    def _overdrawn(self) -> int:
        return self.ledger.committed - (self.budget - self._kept)

    # --------------------------------------------------------------------- what others take

    async def _look(self) -> None:
        """Plan with no more than the driver can give."""
        self._take_in(await anyio.to_thread.run_sync(self._free_memory))

    def _take_in(self, free: int) -> None:
        """Learn what the driver reports free, which other programs' use makes less than ours.

        What leases and residents have declared is used by their processes, so that it must not be
        counted twice.
        """
        reachable = free + self.ledger.used
        self._squeezed = reachable < self.budget - self._kept
        self.ledger.set_capacity(min(self.budget - self._kept, reachable))


class _Shares:
    """A ledger as `RoomQueue` sees it."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.reserve = ledger.reserve

    @property
    def available(self) -> int:
        return self._ledger.available

    def commitment(self, account: int) -> int:
        reading = self._ledger.read(account)
        return 0 if reading is None else max(reading.used, reading.reserved)
