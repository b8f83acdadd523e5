"""`CudaMemory`: where one context's allocations come from. See `DriverMemory`."""

from __future__ import annotations

import threading

from ...ports import MemoryLedger, Refusal
from ..out_of_memory import out_of_memory_error
from .context_pools import ContextPools
from .ledger import NativeLedger

__all__ = ["CudaMemory", "UncountedMemory"]


class _AccountMemory:
    """What each kind of memory has: a device, and an account that refusals are told of."""

    def __init__(self, device: int, ledger: MemoryLedger, account: int) -> None:
        self.device = device
        self._ledger = ledger
        self._account = account

    def translated(self, error: Exception, context: str) -> Exception:
        return self._error(error, self._ledger.refusal(self._account), context)

    def refused(self, refusal: Refusal, context: str) -> Exception:
        import torch

        return self._error(torch.OutOfMemoryError(), refusal, context)

    def _error(self, error: Exception, refusal: Refusal | None, context: str) -> Exception:
        return out_of_memory_error(error, context=context, device=self.device, refusal=refusal)


class CudaMemory(_AccountMemory):
    """A `DriverMemory` whose allocations come from memory pools of the context's own.

    Args:
        device: logical index.
        ledger: the device's.
        account: the context's.
        pools: where the allocations come from.
        enforced: whether the pools' allocator asks the ledger, a `NativeLedger`. If not, `settle`
            brings the account up to date, and what is over is found out afterwards.
    """

    def __init__(
        self,
        device: int,
        ledger: MemoryLedger,
        account: int,
        *,
        pools: ContextPools,
        enforced: bool,
    ) -> None:
        super().__init__(device, ledger, account)
        self.pools = pools
        self.enforced = enforced
        self._settling = threading.Lock()
        self._settled = 0
        self._gauge = ledger.gauge(account) if isinstance(ledger, NativeLedger) else None
        if not enforced:
            pools.on_swept = self.settle

    @property
    def charged(self) -> int:
        return self._settled if self._gauge is None else self._gauge()

    def live(self) -> int:
        return self.pools.sizes()[0]

    def settle(self) -> None:
        if self.enforced or self._ledger.read(self._account) is None:
            return
        with self._settling:
            change = self.pools.sizes()[1] - self._settled
            if change < 0:
                self._ledger.credit(self._account, -change)
            elif change > 0:
                change = self._entered(change)
            self._settled += change

    def trim(self) -> None:
        self.pools.rotate()
        self.settle()

    def close(self) -> None:
        self.pools.close()
        self.settle()

    def _entered(self, growth: int) -> int:
        """Charge what has been allocated already, over the cap too; return how much of it."""
        ledger, account = self._ledger, self._account
        reading = ledger.read(account)
        if ledger.charge(account, growth) or reading is None:
            return growth
        ledger.set_cap(account, None)
        try:
            # What others have reserved stays theirs: the rest is entered when there is room.
            possible = min(growth, ledger.headroom(account))
            ledger.charge(account, possible)
        finally:
            ledger.set_cap(account, reading.cap)
        return possible


class UncountedMemory(_AccountMemory):
    """The `DriverMemory` of a context whose allocations torch does not keep apart from others'.

    So it is where the program has replaced torch's caching allocator.
    """

    enforced = False
    charged = 0

    def live(self) -> int:
        return 0

    def settle(self) -> None:
        """Do nothing: there is nothing to measure."""

    def trim(self) -> None:
        """Do nothing: no cache is this context's alone."""

    def close(self) -> None:
        """Do nothing: nothing is held."""
