"""Where a memory pool lives: a share of a device of its own, or a part of one context's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from ..policy.context_limits import context_limits
from ..policy.qos import QoSPolicy
from ..ports import Driver, DriverStream
from .closing import StartSoon
from .memory import ContextMemory
from .opening import Opening
from .pool_mover import PoolMover
from .registry import DeviceShares

if TYPE_CHECKING:
    from .context import ExecutionContext

__all__ = ["PoolPlace", "PoolPlaces"]

# As leases and contexts have by default.
_QOS = QoSPolicy.BURSTABLE


@dataclass(frozen=True, slots=True)
class PoolPlace:
    """The place of one open pool."""

    mover: PoolMover
    check_open: Callable[[], object]
    """Raises if it is no more."""
    leave: Callable[[], Awaitable[object]]
    """Gives it back, once nothing of the pool is on the device."""


class PoolPlaces:
    """Finds room for memory pools. Used in the runtime's loop.

    Args:
        driver: the driver of the devices.
        devices: hands out shares of them.
        opening: opens what a pool has of its device, as for a context.
        start_soon: starts a task under the runtime's supervision.
    """

    def __init__(
        self, *, driver: Driver, devices: DeviceShares, opening: Opening, start_soon: StartSoon
    ) -> None:
        self._driver = driver
        self._devices = devices
        self._opening = opening
        self.start_soon = start_soon

    async def on_device(self, name: str, quota: int, index: int) -> PoolPlace:
        """Wait until `quota` bytes of a device are reserved for the pool.

        Raises:
            DeviceError: the device cannot be used.
            InfeasibleRequest: more than this program may use of it.
        """
        limits = context_limits(_QOS, max_vram=None, base_vram=quota)
        claim = await self._devices.reserve(
            index, owner_name=name, vram=quota, qos=_QOS, timeout=None
        )
        try:
            share = await self._opening.open(limits, index, timeout=None)
        except BaseException:
            claim.release()
            raise
        memory = share.memory

        async def leave() -> None:
            # The stream is the mover's.
            try:
                await memory.aclose()
            finally:
                claim.release()

        try:
            mover = await self._mover(
                name,
                quota,
                share.stream,
                memory,
                lambda error: memory.driver.translated(error, name),
            )
        except BaseException:
            with anyio.CancelScope(shield=True):
                await leave()
            raise
        return PoolPlace(mover, lambda: None, leave)

    async def in_context(self, name: str, quota: int, ctx: ExecutionContext) -> PoolPlace:
        """Wait until `quota` bytes are set aside in the budget of a context.

        Raises:
            ContextClosed: the context is closed.
            InfeasibleRequest: more than this program may use of the device.
            VRAMBudgetExceeded: more than `max_vram` leaves, and no handler allowed it.
        """
        core = ctx._core
        memory, key = core.memory, object()
        core.check_open()
        await memory.set_aside(key, quota, None)

        async def leave() -> None:
            memory.give_back(key)

        try:
            stream = self._driver.create_stream(core.stream.device, level=ctx.qos.rank)
            mover = await self._mover(name, quota, stream, memory, memory.translated)
        except BaseException:
            await leave()
            raise
        return PoolPlace(mover, core.check_open, leave)

    async def _mover(
        self,
        name: str,
        quota: int,
        stream: DriverStream,
        memory: ContextMemory,
        translated: Callable[[Exception], Exception],
    ) -> PoolMover:
        try:
            # In a thread, because it may import torch.
            blocks = await anyio.to_thread.run_sync(
                lambda: self._driver.open_blocks(stream, spare=quota)
            )
        except BaseException:
            stream.close()
            raise
        return PoolMover(
            name,
            driver=self._driver,
            stream=stream,
            blocks=blocks,
            memory=memory.driver,
            translated=translated,
            make_room=memory.make_room,
        )
