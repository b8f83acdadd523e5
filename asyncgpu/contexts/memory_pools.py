"""`MemoryPools`: what one runtime keeps for its memory pools."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio

from .. import ambient
from ..errors import InvalidRequest, NoRuntime
from ..policy.device_spec import DeviceChoice, parse_device
from ..policy.residency import Residency
from .pool_performer import PoolPerformer
from .pool_place import PoolPlace, PoolPlaces

if TYPE_CHECKING:
    from .context import ExecutionContext

__all__ = ["MemoryPools", "OpenPool", "pools_of_task"]

_log = logging.getLogger("asyncgpu.contexts")


class Pool(Protocol):
    """A `MemoryPool`, as its runtime sees it."""

    @property
    def quota(self) -> int: ...
    async def aclose(self, *, timeout: float | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class OpenPool:
    """What an open pool consists of."""

    pools: MemoryPools
    pool: Pool
    place: PoolPlace
    performer: PoolPerformer

    async def close(self) -> None:
        """Give its place back; nothing of it is on the device any more."""
        self.pools.forget(self.pool)
        try:
            await self.place.mover.close()
        finally:
            await self.place.leave()


class MemoryPools:
    """Opens memory pools, and closes those that are still open with the runtime.

    Args:
        places: finds room for them.
        default_device: logical index used where the caller names none.
    """

    def __init__(self, places: PoolPlaces, *, default_device: int = 0) -> None:
        self._places = places
        self._default_device = default_device
        self._open: dict[int, Pool] = {}
        self._opened = 0
        self._closed = False

    async def open(
        self,
        pool: Pool,
        residency: Residency,
        device: str | None,
        context: ExecutionContext | None,
    ) -> OpenPool:
        """Find a place for a pool, waiting for its quota.

        Raises:
            DeviceError: the device cannot be used.
            InfeasibleRequest: the quota is more than this program may use of the device.
            InvalidRequest: `device` is not one GPU.
            NoRuntime: the runtime is closed.
        """
        self._opened += 1
        name = f"memory pool {self._opened}"
        if context is None:
            place = await self._places.on_device(name, pool.quota, self._device_index(device))
        else:
            place = await self._places.in_context(name, pool.quota, context)
        performer = PoolPerformer(residency, place.mover, self._places.start_soon)
        opened = OpenPool(self, pool, place, performer)
        self._open[id(pool)] = pool
        if self._closed:
            with anyio.CancelScope(shield=True):
                await opened.close()
            raise NoRuntime("the runtime was closed while this memory pool waited for its quota")
        return opened

    def forget(self, pool: Pool) -> None:
        """Take note that a pool is being closed."""
        self._open.pop(id(pool), None)

    def close_later(self, pool: Pool) -> None:
        """Close a pool in a task of the runtime."""

        async def close() -> None:
            await self._close(pool, None)

        self._places.start_soon(close)

    async def aclose(self, *, timeout: float | None = None) -> None:
        """Close all pools, side by side, and open no more.

        Args:
            timeout: seconds for the blocks in use; None: no limit.
        """
        self._closed = True
        async with anyio.create_task_group() as closing:
            for pool in list(self._open.values()):
                closing.start_soon(self._close, pool, timeout)

    async def _close(self, pool: Pool, timeout: float | None) -> None:
        try:
            await pool.aclose(timeout=timeout)
        except Exception as error:  # noqa: BLE001 - nobody waits for it: the log is the last reader
            _log.error("%r could not be closed: %s", pool, error)

    def _device_index(self, device: str | None) -> int:
        if device is None:
            return self._default_device
        spec = parse_device(device)
        if spec.count != 1:
            raise InvalidRequest(f"device: a memory pool lives on one GPU, not on {device!r}")
        return spec.indices[0] if spec.kind is DeviceChoice.EXACT else self._default_device


def pools_of_task() -> MemoryPools:
    """Return the memory pools of the current task's runtime.

    Raises:
        NoRuntime: no runtime is open here.
    """
    pools: MemoryPools = ambient.find_runtime().memory_pools
    return pools
