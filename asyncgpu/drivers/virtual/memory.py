"""What one context has allocated on a virtual device, and its account in the ledger."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import AsyncGPUError
from ...ports import MemoryLedger, Refusal
from ...units import format_size
from ..out_of_memory import out_of_memory_error
from .claims import Claims
from .faults import FaultScript
from .segments import Segments

if TYPE_CHECKING:
    from .metering import Meter

__all__ = ["VirtualMemory"]


class VirtualMemory:
    """A `DriverMemory` that is charged for the torch storages made while it is applied.

    Storages die in any thread, and a garbage collection may end one in the middle of anything, the
    methods below included. So `give_back` never waits: what it is told is put down, and entered by
    whoever has the lock.

    Args:
        device: logical index.
        total: bytes of the device.
        ledger: asked before anything is charged.
        account: whom it charges.
        script: the faults of the device.
        claims: which storages of this driver are charged to whom.
        new_meter: makes what counts in one thread.

    Attributes:
        charged: bytes that the account is charged for.
        closed: whether `close` was called; it cannot be applied any more.
    """

    enforced = True

    def __init__(
        self,
        device: int,
        total: int,
        *,
        ledger: MemoryLedger,
        account: int,
        script: FaultScript,
        claims: Claims,
        new_meter: Callable[[], Meter],
    ) -> None:
        self.device = device
        self.claims = claims
        self.new_meter = new_meter
        self.charged = 0
        self.closed = False
        self._total = total
        self._ledger = ledger
        self._account = account
        self._script = script
        self._segments = Segments()
        self._dead: deque[int] = deque()
        # Guards the segments and `charged`; held for moments. Reentrant, because a finaliser may
        # run in the middle; `_busy` then tells it so.
        self._lock = threading.RLock()
        self._busy = False

    def live(self) -> int:
        self._enter_dead()
        with self._lock:  # An allocation is entered before it is charged, and may yet be refused.
            return self._segments.live

    def settle(self) -> None:
        """Do nothing: an allocation is charged when it is made."""

    def trim(self) -> None:
        """Do nothing: a segment is given back with the last allocation that it is needed for."""

    def translated(self, error: Exception, context: str) -> Exception:
        # One of ours has been translated where it came from, by the context whose budget it was.
        if isinstance(error, AsyncGPUError):
            return error
        refusal = getattr(error, "refusal", None)
        return out_of_memory_error(error, context=context, device=self.device, refusal=refusal)

    def refused(self, refusal: Refusal, context: str) -> Exception:
        import torch

        error = torch.OutOfMemoryError()
        return out_of_memory_error(error, context=context, device=self.device, refusal=refusal)

    def close(self) -> None:
        self.closed = True

    # ------------------------------------------------------------------ for those who allocate

    def take(self, nbytes: int) -> int | Refusal:
        """Charge an allocation of `nbytes`; return what to give back at its end, or the refusal."""
        if self._script.refuses_allocation(self.device):
            return Refusal(nbytes, 0, by_device=True)
        with self._lock:
            if self._busy:
                # A finaliser of foreign code allocates in the middle of the lines below. There is
                # nothing consistent to charge it to, and nothing that it could wait for.
                return 0
            self._busy = True
            try:
                refusal = self._charge(nbytes)
            finally:
                self._busy = False
        # What died meanwhile found the lock taken.
        self._enter_dead()
        return nbytes if refusal is None else refusal

    def give_back(self, nbytes: int) -> None:
        """Credit an allocation that was taken as `nbytes`; from anywhere, never waiting."""
        self._dead.append(nbytes)
        self._enter_dead()

    def message(self, nbytes: int, refusal: Refusal) -> str:
        """Return what an out-of-memory error says, in the words that CUDA's has."""
        return (
            f"CUDA out of memory. Tried to allocate {format_size(nbytes)}. The virtual device "
            f"cuda:{self.device} has a total capacity of {format_size(self._total)} of which "
            f"{format_size(refusal.available)} is free for this context."
        )

    def _charge(self, nbytes: int) -> Refusal | None:
        self._drain()
        growth = self._segments.add(nbytes)
        if growth and not self._ledger.charge(self._account, growth):
            self._segments.remove(nbytes)
            return self._ledger.refusal(self._account) or Refusal(growth, 0, by_device=False)
        self.charged += growth
        return None

    def _enter_dead(self) -> None:
        while self._dead and self._lock.acquire(blocking=False):
            try:
                if self._busy:
                    # This is a finaliser in the middle of it: whoever it interrupts goes on here.
                    return
                self._busy = True
                try:
                    self._drain()
                finally:
                    self._busy = False
            finally:
                self._lock.release()

    def _drain(self) -> None:
        shrunk = 0
        while self._dead:
            shrunk += self._segments.remove(self._dead.popleft())
        if shrunk:
            self.charged -= shrunk
            self._ledger.credit(self._account, shrunk)
