"""`CudaMemories`: opens the memory of contexts, over the allocator that this torch allows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ...ports import MemoryLedger
from .context_pools import ContextPools
from .cudart import find_cuda_functions
from .ledger import NativeLedger
from .memory import CudaMemory, UncountedMemory
from .pool_calls import PoolCalls
from .pool_gate import PoolGate

__all__ = ["CudaMemories"]


class CudaMemories:
    """The memory of every context in this process. `open` is not thread-safe.

    A budget is enforced where the package was built with a C compiler, torch's own caching
    allocator is in use, and CUDA's runtime is a shared library. Otherwise it is measured.

    Args:
        torch: the module, with CUDA initialised.
        calls: what it can do with memory pools; None: nothing.
    """

    def __init__(self, torch: Any, calls: PoolCalls | None) -> None:
        self._calls = calls
        self._cuda = find_cuda_functions(torch.version.cuda)
        self._gates: dict[int, PoolGate] = {}
        # By the functions that they call. Kept for the life of the process, because torch's pools
        # have kept no reference of their own in some versions (pytorch issue 146431).
        self._allocators: dict[tuple[int, int], object] = {}

    def open(self, device: int, ledger: MemoryLedger, account: int) -> CudaMemory | UncountedMemory:
        """Return the memory of one context, charged to `account`."""
        if self._calls is None:
            return UncountedMemory(device, ledger, account)
        gate = self._gates.setdefault(device, PoolGate(device, self._calls))
        allocator = self._allocator(self._calls, ledger, account)
        on_end: Callable[[], None] | None = None
        if allocator is not None and isinstance(ledger, NativeLedger):
            # Pools that are entered when the account ends still call its functions.
            ledger.hold(account)
            on_end = functools.partial(ledger.let_go, account)
        pools = ContextPools(device, self._calls, gate, allocator=allocator, on_end=on_end)
        return CudaMemory(device, ledger, account, pools=pools, enforced=allocator is not None)

    def sweep(self, device: int) -> None:
        """Give back what outlived its context and has died since. May block for milliseconds."""
        if (gate := self._gates.get(device)) is not None:
            gate.sweep()

    def _allocator(self, calls: PoolCalls, ledger: MemoryLedger, account: int) -> object | None:
        if self._cuda is None or not isinstance(ledger, NativeLedger):
            return None
        functions = ledger.library.functions(account)
        if functions not in self._allocators:
            allocator = calls.new_allocator(functions)
            if allocator is None:
                return None
            ledger.library.allocate_with(self._cuda)
            self._allocators[functions] = allocator
        return self._allocators[functions]
