"""`Capacity`: how much of one device the contexts of this program can have together."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
import anyio.to_thread

from ..ports import MemoryLedger

__all__ = ["Capacity"]

# As long as work that begins may rely on what the driver has said.
_FRESH_SECONDS = 0.01


class Capacity:
    """Keeps the capacity of a ledger: the budget, less what others have of it. Thread-safe.

    Args:
        budget: bytes that this program may plan with.
        ledger: of its contexts.
        free_memory: bytes the driver reports free; may block.

    Attributes:
        squeezed: whether other programs had so much that the budget could not be had in full.
    """

    def __init__(self, budget: int, ledger: MemoryLedger, free_memory: Callable[[], int]) -> None:
        self.squeezed = False
        self._budget = budget
        self._ledger = ledger
        self._free_memory = free_memory
        self._kept = 0
        self._looked_at = float("-inf")

    @property
    def overdrawn(self) -> int:
        """Bytes that contexts have beyond what leases and residents leave them; 0 or less: none."""
        return self._ledger.committed - self._planned

    def keep(self, nbytes: int) -> bool:
        """Leases and residents have declared so much; return whether that is less than before."""
        if nbytes == self._kept:
            return False
        less = nbytes < self._kept
        self._kept = nbytes
        self._ledger.set_capacity(self._planned)
        return less

    async def look(self) -> None:
        """Plan with no more than the driver can give."""
        used = self._ledger.used
        # A thread of its own: those of the program may all be waiting for what this leads to.
        free = await anyio.to_thread.run_sync(
            self._free_memory, limiter=anyio.CapacityLimiter(1), abandon_on_cancel=True
        )
        self._take_in(used, free)

    def look_blocking(self) -> None:
        """As `look`; it may take a millisecond."""
        self._take_in(self._ledger.used, self._free_memory())

    async def refresh(self) -> None:
        """Work begins: ask again whether other programs still have what they had a while ago."""
        if self._is_stale():
            await self.look()

    def refresh_blocking(self) -> None:
        """As `refresh`, in a thread that may block."""
        if self._is_stale():
            self.look_blocking()

    @property
    def _planned(self) -> int:
        return self._budget - self._kept

    def _is_stale(self) -> bool:
        return self.squeezed and time.monotonic() - self._looked_at >= _FRESH_SECONDS

    def _take_in(self, used: int, free: int) -> None:
        """Learn what the driver reports free, which other programs' use makes less than ours.

        What leases and residents have declared is used by their processes, so that it must not be
        counted twice.

        Args:
            used: what our contexts used before the driver was asked. What was freed meanwhile may
                have been counted, or not; to refuse somebody for nothing would be worse.
            free: bytes.
        """
        reachable = free + max(used, self._ledger.used)
        self._looked_at = time.monotonic()
        self.squeezed = reachable < self._planned
        self._ledger.set_capacity(min(self._planned, reachable))
