"""`DeviceMemories`: the memory of every device that has contexts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio
import anyio.to_thread

from ..home_loop import HomeLoop
from ..ports import Driver, MemoryLedger
from .ledger import LockedLedger
from .memory import DeviceMemory, Relief

__all__ = ["DeviceMemories"]


class DeviceMemories:
    """Opens a `DeviceMemory` when a context first needs it. Used in the runtime's loop.

    A program whose devices are used by its workers alone opens none: on CUDA, opening one
    initialises CUDA in this process.

    Args:
        driver: the driver of the devices.
        capacities: bytes that this program may plan with, by logical index.
        ageing_seconds: the wait that makes up for one QoS class.
        clock: seconds; never goes back.
        loop: the runtime's.
    """

    def __init__(
        self,
        driver: Driver,
        capacities: Mapping[int, int],
        *,
        ageing_seconds: float,
        clock: Callable[[], float],
        loop: HomeLoop,
    ) -> None:
        self._driver = driver
        self._capacities = dict(capacities)
        self._ageing_seconds = ageing_seconds
        self._clock = clock
        self._loop = loop
        self._kept: Callable[[int], int] = lambda index: 0
        self._opened: dict[int, DeviceMemory] = {}
        self._opening: dict[int, anyio.Lock] = {}
        self.relief: Relief | None = None
        """Makes room among the contexts of a device; set before the first is opened."""

    @property
    def capacities(self) -> Mapping[int, int]:
        """Bytes that this program may plan with, by logical index."""
        return self._capacities

    def share_out(self, kept: Callable[[int], int]) -> None:
        """Take in what leases and residents have declared; contexts share the rest.

        Args:
            kept: returns the bytes declared on a device.
        """
        self._kept = kept
        for index, memory in self._opened.items():
            memory.keep_from_contexts(kept(index))

    def used(self, index: int) -> int:
        """Return the bytes that the contexts of a device use now."""
        memory = self._opened.get(index)
        return 0 if memory is None else memory.ledger.used

    async def until_whole(self, index: int) -> None:
        """Wait until the contexts of a device use no more than leases and residents leave them."""
        if (memory := self._opened.get(index)) is not None:
            await memory.until_whole()

    async def get(self, index: int) -> DeviceMemory:
        """Return the memory of a device, opened if need be, which may take seconds."""
        async with self._opening.setdefault(index, anyio.Lock()):
            if index not in self._opened:
                ledger = await anyio.to_thread.run_sync(self._new_ledger, index)
                self._opened[index] = DeviceMemory(
                    index,
                    self._capacities[index],
                    ledger=ledger,
                    free_memory=lambda: self._driver.free_memory(index),
                    ageing_seconds=self._ageing_seconds,
                    clock=self._clock,
                    loop=self._loop,
                )
                self._opened[index].relief = self.relief
                self._opened[index].keep_from_contexts(self._kept(index))
        return self._opened[index]

    def available(self, index: int) -> int:
        """Return the bytes that a new context could reserve now; may block for milliseconds."""
        if (memory := self._opened.get(index)) is not None:
            return memory.available
        left = self._capacities[index] - self._kept(index)
        return max(0, min(left, self._driver.free_memory(index)))

    def _new_ledger(self, index: int) -> MemoryLedger:
        capacity = self._capacities[index]
        return self._driver.native_ledger(index, capacity) or LockedLedger(capacity)
