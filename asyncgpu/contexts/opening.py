"""Opening a context: its account, its memory and its stream, one after the other, or nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ..devices.memories import DeviceMemories
from ..devices.memory import DeviceMemory
from ..policy.context_limits import ContextLimits
from ..policy.pressure import PressureMarks
from ..ports import ComputeShare, Driver, DriverMemory, DriverStream
from .closing import StartSoon
from .made_in_thread import made_in_thread
from .memory import ContextMemory
from .partition import Partition
from .pressure import Pressure

__all__ = ["Opening", "Share"]


@dataclass(frozen=True, slots=True)
class Share:
    """What a new context has of its device."""

    stream: DriverStream
    memory: ContextMemory

    def close(self) -> None:
        """Give it back, where no context came of it."""
        self.stream.close()
        self.memory.close()


class Opening:
    """Opens shares of devices. Used in the runtime's loop.

    Args:
        driver: the driver of the devices.
        memories: the memory of the devices.
        pressure: whom contexts ask for room.
        soft_mark: share of a context's budget at which handlers are told.
        hard_mark: share at which they are told again.
        start_soon: starts a task under the runtime's supervision, in its loop.
    """

    def __init__(
        self,
        driver: Driver,
        memories: DeviceMemories,
        pressure: Pressure,
        *,
        soft_mark: float,
        hard_mark: float,
        start_soon: StartSoon,
    ) -> None:
        self._driver = driver
        self._memories = memories
        self._pressure = pressure
        self._marks = (soft_mark, hard_mark)
        self._start_soon = start_soon
        self._serving = False

    async def open(
        self,
        limits: ContextLimits,
        index: int,
        *,
        partition: Partition | None = None,
        timeout: float | None,
    ) -> Share:
        """Wait for the reservation, then open what hangs on it; the first may take seconds.

        Raises:
            DeviceError: the device cannot be used.
            TimeoutError: the reservation was not met in time.
        """
        if not self._serving:
            self._serving = True
            self._start_soon(self._pressure.serve)
        device = await self._memories.get(index)
        ledger, cap = device.ledger, limits.max_vram
        account = partition.open_account(ledger, cap=cap) if partition else ledger.open(cap=cap)
        assert account is not None, "an account without a reservation needs no room"
        try:
            if limits.reservation:
                await device.secure(account, limits.reservation, limits.qos, timeout=timeout)
            sms = None if partition is None else partition.share
            stream, driver = await made_in_thread(
                lambda: self._open_parts(index, limits.qos.rank, sms, device, account),
                _close_parts,
            )
        except BaseException:
            device.close(account)
            raise
        ceiling = None if partition is None else partition.memory_limit
        return Share(stream, self._context_memory(limits, device, account, driver, ceiling))

    def _open_parts(
        self,
        index: int,
        level: int,
        sms: ComputeShare | None,
        device: DeviceMemory,
        account: int,
    ) -> tuple[DriverStream, DriverMemory]:
        # In a thread, because the first of either may initialise CUDA or import torch.
        stream = self._driver.create_stream(index, level=level, share=sms)
        try:
            return stream, self._driver.open_memory(index, device.ledger, account)
        except BaseException:
            stream.close()
            raise

    def _context_memory(
        self,
        limits: ContextLimits,
        device: DeviceMemory,
        account: int,
        driver: DriverMemory,
        ceiling: int | None,
    ) -> ContextMemory:
        soft, hard = self._marks
        return ContextMemory(
            limits,
            device=device,
            account=account,
            driver=driver,
            pressure=self._pressure,
            marks=PressureMarks(limits.max_vram or device.budget, soft=soft, hard=hard),
            ceiling=ceiling,
        )


def _close_parts(parts: tuple[DriverStream, DriverMemory]) -> None:
    stream, memory = parts
    stream.close()
    memory.close()
