"""`DeviceMemory`: the memory of one device: its ledger, and those who wait for room in it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import anyio

from ..errors import InfeasibleRequest
from ..home_loop import HomeLoop, home_loop
from ..policy.qos import QoSPolicy
from ..policy.room import Demand, RoomQueue
from ..ports import MemoryLedger
from ..promise import Promise, new_promise, resolve
from ..units import format_size
from .capacity import Capacity
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
    """Hands out room on one device, in the order of QoS classes. Used from any event loop.

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
        self.capacity = Capacity(budget, ledger, free_memory)
        """How much contexts can have together."""
        self._clock = clock
        self._loop = loop
        self._shares = _Shares(ledger)
        # Guards the line and who stands in it; held for moments, and nobody is told anything under
        # it. A finaliser that frees memory takes it not: see `changed`.
        self._lock = threading.Lock()
        self._queue = RoomQueue(self._shares, ageing_seconds=ageing_seconds)
        self._waiting: dict[object, _Waiting] = {}
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
        self.capacity.look_blocking()
        return self.ledger.available

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._waiting)

    def keep_from_contexts(self, nbytes: int) -> None:
        """Leases and residents have declared so much; contexts share the rest."""
        if self.capacity.keep(nbytes):
            self.changed()

    async def relieve(self, lacking: Callable[[], int], *, ask: bool = True) -> None:
        """Make room until `lacking` is 0, as far as that can be done."""
        if lacking() > 0 and self.capacity.squeezed:
            await self.capacity.look()
        if self.relief is not None and lacking() > 0:
            await self.relief(self, lacking, ask=ask)

    def changed(self) -> None:
        """There may be more room now; from any thread, a finaliser included."""
        if not self._waiting or self._serving_soon:
            return
        self._serving_soon = True
        # Not at once: this may be a finaliser in the middle of serving.
        if not self._loop.later(self._serve):
            self._serving_soon = False

    # --------------------------------------------------------------------------------- waiting

    async def secure(
        self,
        account: int,
        target: int,
        qos: QoSPolicy,
        *,
        timeout: float | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """Wait until `target` bytes are reserved for `account`, which has less.

        Args:
            account: one that is open.
            target: bytes.
            qos: its class, which decides, with the time of arrival, who is served first.
            timeout: seconds to wait; None: no limit.
            check: raises once nothing is to be secured for `account` any more; quick. Asked again
                after `dismiss`.

        Raises:
            InfeasibleRequest: more than this program may use of the device.
            TimeoutError: there was no room in time.
        """
        if target > self.budget:
            raise InfeasibleRequest(
                f"{self.name}: {format_size(target)} asked, and this program may use "
                f"{format_size(self.budget)} there"
            )
        await self.capacity.look()
        with self._lock:
            check()
            demand = self._queue.add(account, target, qos, self._clock())
        try:
            self._serve()
            with anyio.move_on_after(timeout):
                await self._until(
                    demand, account, lambda: demand.met, lambda: self._lacking(demand), check
                )
        finally:
            with self._lock:
                self._queue.withdraw(demand)
            self.changed()
        if not demand.met:
            raise TimeoutError(
                f"{self.name}: {format_size(target)} not available within {timeout} s"
            )

    def lower(self, account: int, nbytes: int) -> None:
        """Reserve no more than `nbytes` for an open account from now on."""
        with self._lock:
            self._queue.lower(account, nbytes)
        self.changed()

    def dismiss(self, account: int) -> None:
        """Put whoever waits for room for `account` out of the line, and let him look why."""
        with self._lock:
            self._queue.withdraw_all(account)
            dismissed = [each for each in self._waiting.values() if each.account == account]
        _wake(dismissed)

    def close(self, account: int) -> None:
        """Close an account that nobody waits for; what it uses stays charged until it is freed."""
        with self._lock:
            self._queue.forget(account)
            self.ledger.close(account)
        self.changed()

    async def until_whole(self) -> None:
        """Wait until contexts use no more than what leases and residents leave them."""
        capacity = self.capacity
        await self._until(
            object(), None, lambda: capacity.overdrawn <= 0, lambda: capacity.overdrawn, int
        )

    async def _until(
        self,
        who: object,
        account: int | None,
        met: Callable[[], bool],
        lacking: Callable[[], int],
        check: Callable[[], object],
    ) -> None:
        ask = True
        try:
            while not met():
                check()
                await self.relieve(lacking, ask=ask)
                ask = False
                await self.capacity.look()
                # Before looking: else what is freed in between would wake nobody.
                waiting = _Waiting(account, home_loop(), new_promise())
                with self._lock:
                    self._waiting[who] = waiting
                self._serve()
                if met():
                    return
                check()
                # Nobody announces what torch's caches and other programs give back.
                unheard = not self._hears_credits or self.capacity.squeezed
                with anyio.move_on_after(_LOOK_AGAIN_SECONDS if unheard else None):
                    await waiting.promise
        finally:
            with self._lock:
                self._waiting.pop(who, None)

    def _serve(self) -> None:
        self._serving_soon = False
        with self._lock:
            served: list[object] = list(self._queue.serve())
            if self.capacity.overdrawn <= 0:
                served += [who for who, each in self._waiting.items() if each.account is None]
            woken = [self._waiting[who] for who in served if who in self._waiting]
        _wake(woken)

    def _lacking(self, demand: Demand) -> int:
        committed = self._shares.commitment(demand.account)
        return max(0, demand.target - committed - self.ledger.available)


@dataclass(slots=True)
class _Waiting:
    """One task that waits, in its own event loop."""

    account: int | None
    loop: HomeLoop
    promise: Promise[None]


def _wake(waiting: list[_Waiting]) -> None:
    for each in waiting:
        each.loop.call(resolve, each.promise, None)


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
