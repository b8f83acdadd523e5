"""`ContextServices`: everything of one runtime that has to do with contexts, wired together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from ..devices.manager import DeviceManager
from ..devices.memories import DeviceMemories
from ..ports import Driver
from ..settings import Settings
from .closing import StartSoon
from .device_partitions import DevicePartitions
from .device_turns import DeviceTurns
from .memory_pools import MemoryPools
from .opening import Opening
from .pool_place import PoolPlaces
from .pressure import Pressure
from .registry import ContextRegistry
from .relief import Relief

__all__ = ["ContextServices"]

log = logging.getLogger("asyncgpu.runtime")


class ContextServices:
    """The contexts of one runtime, and what they share.

    Attributes:
        registry: the contexts, by name.
        pressure: whom they ask for memory.
        partitions: the parts of devices that they belong to.
        memory_pools: the pools of blocks beside them.
    """

    def __init__(
        self,
        *,
        driver: Driver,
        devices: DeviceManager,
        memories: DeviceMemories,
        settings: Settings,
        timeline: Any,
        start_soon: StartSoon,
        default_device: int,
    ) -> None:
        """Wire them; nothing is opened before it is used. In the runtime's loop.

        Args:
            driver: the driver of the devices.
            devices: hands out shares of them.
            memories: their memory.
            settings: turns, marks and times.
            timeline: where sessions and calls are noted.
            start_soon: starts a task under the runtime's supervision.
            default_device: logical index used where the caller names none.
        """
        self._close_timeout = settings.close_timeout
        self.pressure = Pressure(timeout=settings.memory_handler_timeout)
        self.partitions = DevicePartitions(driver, memories.capacities)
        opening = Opening(
            driver,
            memories,
            self.pressure,
            soft_mark=settings.memory_soft_mark,
            hard_mark=settings.memory_hard_mark,
            start_soon=start_soon,
        )
        self.registry = ContextRegistry(
            driver=driver,
            devices=devices,
            opening=opening,
            start_soon=start_soon,
            partitions=self.partitions,
            default_device=default_device,
            timeline=timeline,
            new_device_turns=_device_turns(settings),
        )
        self.memory_pools = MemoryPools(
            PoolPlaces(driver=driver, devices=devices, opening=opening, start_soon=start_soon),
            default_device=default_device,
        )
        memories.relief = Relief(self.registry.contexts, self.pressure)

    async def aclose(self) -> None:
        """Close everything, whatever becomes of the rest."""
        async with AsyncExitStack() as parts:
            parts.callback(self.partitions.close)
            parts.push_async_callback(self._close_contexts)
            parts.push_async_callback(self.memory_pools.aclose, timeout=self._close_timeout)

    async def _close_contexts(self) -> None:
        """Drain them for a while; what still runs then, in a task or a thread, is abandoned."""
        try:
            await self.registry.aclose(timeout=self._close_timeout)
        except Exception as error:  # noqa: BLE001 - closing goes on; the log says what was left
            log.warning("closing the runtime: %s", error)
        finally:
            self.registry.abandon()


def _device_turns(settings: Settings) -> Callable[[], DeviceTurns]:
    return lambda: DeviceTurns(
        settings.max_concurrent_sessions, ageing_seconds=settings.ageing_seconds
    )
