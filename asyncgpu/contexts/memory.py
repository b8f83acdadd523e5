"""`ContextMemory`: one context's share of its device's memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio.to_thread

from ..devices.memory import DeviceMemory
from ..errors import ContextClosed, OutOfDeviceMemory, VRAMBudgetExceeded
from ..policy.context_limits import ContextLimits
from ..policy.pressure import PressureMarks
from ..ports import DriverMemory, Refusal
from .pressure import Pressure
from .usage import ContextUsage

if TYPE_CHECKING:
    from .context import ExecutionContext

__all__ = ["ContextMemory"]


class ContextMemory:
    """What a context may allocate, what it has, and what happens when it needs more.

    Attributes:
        context: whose it is; set once, by the context.
        limits: its class and limits.
        device: the memory of its device.
        driver: where its allocations come from.
    """

    context: ExecutionContext

    def __init__(
        self,
        limits: ContextLimits,
        *,
        device: DeviceMemory,
        account: int,
        driver: DriverMemory,
        pressure: Pressure,
        marks: PressureMarks,
        ceiling: int | None = None,
    ) -> None:
        """Belong to an account that is open.

        Args:
            limits: its class and limits.
            device: the memory of its device.
            account: its account there.
            driver: where its allocations come from.
            pressure: whom to ask for room.
            marks: where pressure begins.
            ceiling: bytes that no handler can lift it over; None: none but the device's.
        """
        self.limits = limits
        self.device = device
        self.driver = driver
        self._account = account
        self._ledger = device.ledger
        self._pressure = pressure
        self._marks = marks
        self._ceiling = ceiling
        # Guards the marks, the lift and the end, which any thread may bring. Reentrant, for
        # finalisers.
        self._lock = threading.RLock()
        self._lifted = False
        self._keeping = 0
        # What `set_aside` is to reach for each key; and the keys for which it has not yet.
        self._goals: dict[object, int] = {}
        self._waiting: set[object] = set()
        self._refusing = False
        self._closed = False

    @property
    def enforced(self) -> bool:
        """Whether an allocation over the budget is refused where it is made."""
        return self.driver.enforced

    @property
    def bursting(self) -> bool:
        """Whether it uses more than what is reserved for it."""
        reading = self._ledger.read(self._account)
        return reading is not None and reading.used > reading.reserved

    @property
    def moved(self) -> bool:
        """Whether its use has passed a mark since the last `look`. Cheap: for every step."""
        marks = self._marks
        return not marks.low <= self.driver.charged < marks.high

    @property
    def left(self) -> int:
        """Bytes it could be charged now."""
        with self._lock:
            return 0 if self._closed else self._ledger.headroom(self._account)

    def usage(self) -> ContextUsage:
        """Return a snapshot."""
        self.driver.settle()
        live = self.driver.live()
        # Second, so that `used` is never more than `peak`.
        reading = self._ledger.read(self._account)
        return ContextUsage(
            used=live,
            cached=0 if reading is None else max(0, reading.used - live),
            peak=0 if reading is None else reading.peak,
            max=self.limits.max_vram,
            base=self.limits.base_vram,
            reserved=0 if reading is None else reading.reserved,
        )

    # --------------------------------------------------------------------------- set aside

    async def set_aside(self, key: object, nbytes: int, timeout: float | None) -> None:
        """Reserve `nbytes` beyond what it uses and has set aside; `give_back` ends it.

        Raises:
            ContextClosed: the context was closed meanwhile.
            InfeasibleRequest: more than this program may use of the device.
            TimeoutError: there was no room on the device in time.
            VRAMBudgetExceeded: more than its own budget leaves, and no handler allowed it.
        """
        with self.keeping_lifts():
            await self._within_budget(nbytes)
            self._check_open()
            self._goals[key] = self._claimed() + nbytes
            self._waiting.add(key)
        try:
            target = max(self.limits.reservation, *self._goals.values())
            reading = self._ledger.read(self._account)
            if reading is None or target > reading.reserved:
                await self.device.secure(
                    self._account,
                    target,
                    self.limits.qos,
                    timeout=timeout,
                    check=self._check_open,
                )
        except BaseException:
            self.give_back(key)
            raise
        self._waiting.discard(key)

    def give_back(self, key: object) -> None:
        """End what `set_aside` began."""
        del self._goals[key]
        self._waiting.discard(key)
        reached = [goal for each, goal in self._goals.items() if each not in self._waiting]
        with self._lock:
            if not self._closed:
                self.device.lower(self._account, max(self.limits.reservation, *reached, 0))
        self.changed()

    def refuse(self) -> None:
        """Set nothing aside any more; whoever waits for room is told that the context closes."""
        self._refusing = True
        self.device.dismiss(self._account)

    def _check_open(self) -> None:
        if self._refusing:
            raise ContextClosed(f"context {self.context.name!r} is closed: it gets no more room")

    async def _within_budget(self, nbytes: int) -> None:
        def fits() -> bool:
            cap = self._cap()
            return cap is None or self._claimed() + nbytes <= cap

        if fits():
            return
        available = max(0, (self._cap() or 0) - self._claimed())
        allowed = await self._pressure.ask(self.context, nbytes, available, enough=fits)
        if fits():
            return
        too_high = self._ceiling is not None and self._claimed() + nbytes > self._ceiling
        if too_high or not allowed:
            raise self.driver.refused(Refusal(nbytes, available, False), self.context.name)
        self._lift(self._claimed() + nbytes)

    # ------------------------------------------------------------------------- out of memory

    def translated(self, error: Exception) -> Exception:
        """Return our error for torch's out-of-memory one, or the same if it is none, or ours."""
        if isinstance(error, VRAMBudgetExceeded | OutOfDeviceMemory):
            return error
        return self.driver.translated(error, self.context.name)

    def overdrawn(self) -> Exception | None:
        """Return the error for using too much, where allocations are not refused as they come."""
        if self.driver.enforced:
            return None
        self.driver.settle()
        reading = self._ledger.read(self._account)
        if reading is None or reading.cap is None or reading.used <= reading.cap:
            return None
        over = reading.used - reading.cap
        return self.driver.refused(Refusal(over, 0, False), self.context.name)

    async def make_room(self, error: VRAMBudgetExceeded | OutOfDeviceMemory) -> None:
        """Do what can be done so that the work that failed with `error` succeeds next time."""
        await self.trim()
        if isinstance(error, OutOfDeviceMemory):
            await self.device.relieve(lambda: 0 if self._closed else error.requested - self.left)
            return
        cap = self._cap()
        allowed = await self._pressure.ask(self.context, error.requested, error.available)
        if allowed and cap is not None:
            # It had `available` left then; with so much more it would have fitted.
            self._lift(cap - error.available + error.requested)

    async def trim(self) -> None:
        """Give back what torch keeps for it and does not use."""
        if not self._closed:
            await anyio.to_thread.run_sync(self.driver.trim)
            self.device.changed()

    # --------------------------------------------------------------------------- over time

    def look(self) -> None:
        """See whether its use has passed a mark. From any thread."""
        self.driver.settle()
        reading = self._ledger.read(self._account)
        if reading is None:
            return
        with self._lock:
            passed = self._marks.moved(reading.used)
        if passed:
            self._pressure.passed(self._tell)

    def changed(self) -> None:
        """Take in that work begins or has ended: marks, a lift, whoever waits. From any thread."""
        # Twice for every session, so it asks the ledger only where there is something to learn.
        if self.moved or not self.driver.enforced:
            self.look()
        if self._lifted:
            self._end_lift()
        self.device.changed()

    @contextmanager
    def keeping_lifts(self) -> Iterator[None]:
        """A lift that a handler allows inside lasts to the end of the block at least."""
        with self._lock:
            self._keeping += 1
        try:
            yield
        finally:
            with self._lock:
                self._keeping -= 1
            self._end_lift()

    def close(self) -> None:
        """Give everything back but live tensors, which stay charged. May block; idempotent."""
        self.refuse()
        self.driver.close()
        with self._lock:
            if not self._closed:
                self._closed = True
                self.device.close(self._account)

    async def aclose(self) -> None:
        """As `close`, in a worker thread."""
        try:
            await anyio.to_thread.run_sync(self.close)
        except BaseException:
            # asyncio's own cancellation goes through every shield: here, then, and now.
            self.close()
            raise

    async def _tell(self) -> None:
        await self.trim()
        await self._pressure.tell(self.context, self.left)

    def _lift(self, cap: int) -> None:
        with self._lock:
            if not self._closed:
                self._ledger.set_cap(self._account, max(cap, self._cap() or 0))
                self._lifted = True

    def _end_lift(self) -> None:
        most = self.limits.max_vram
        with self._lock:
            if not self._lifted or self._keeping or most is None or self._claimed() > most:
                return
            self._lifted = False
            if not self._closed:
                self._ledger.set_cap(self._account, most)

    # ----------------------------------------------------------------------------- details

    def _cap(self) -> int | None:
        reading = self._ledger.read(self._account)
        return None if reading is None else reading.cap

    def _claimed(self) -> int:
        """What it uses, or has set aside by `set_aside`."""
        reading = self._ledger.read(self._account)
        return max(0 if reading is None else reading.used, *self._goals.values(), 0)
