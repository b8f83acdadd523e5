"""`Site`: where the workers of one crew may stand."""

from __future__ import annotations

from collections.abc import Collection, Hashable

from ..devices.allocation import Allocation, Evictable
from ..devices.manager import DeviceManager
from ..policy.device_spec import DeviceSpec, device_names, parse_device
from .tool import Tool

__all__ = ["Site"]


class Site:
    """The devices of one tool in one pool or block."""

    def __init__(
        self,
        devices: DeviceManager,
        tool: Tool,
        *,
        among: frozenset[int] | None,
        group: Hashable,
        pinned: bool,
        in_process: bool = False,
    ) -> None:
        """Describe it.

        Args:
            devices: hands them out.
            tool: says what it needs.
            among: the devices that may be used; None: all managed ones.
            group: tells the crew's own claims: at most one of them stands on a device.
            pinned: idle workers are never evicted.
            in_process: workers are threads of this process, in contexts.
        """
        self._devices = devices
        self._tool = tool
        self._among = among
        self._group = group
        self._pinned = pinned
        self._in_process = in_process

    @property
    def needs_devices(self) -> bool:
        """Whether its workers wait for GPUs; those on the CPU wait for nothing."""
        return not self._spec.is_cpu

    async def acquire(self, owner: Evictable, *, only: frozenset[int] | None = None) -> Allocation:
        """Wait for the devices of one worker.

        Args:
            owner: who is asked to leave.
            only: logical indices it must be among; None: any of the site.

        Raises:
            InfeasibleRequest: they could never be had.
        """
        allocation = await self._devices.acquire(
            self._tool.device,
            owner=owner,
            vram=self._tool.vram,
            among=self._among if only is None else only,
            group=self._group,
            in_process=self._in_process,
        )
        allocation.pinned = self._pinned
        return allocation

    def could_open(self, held: Collection[int], staying: Collection[int], *, reuse: bool) -> bool:
        """Return whether a worker could be opened some day; see `DeviceManager.could_meet`."""
        return self._devices.could_meet(
            self._tool.device,
            held=held,
            staying=staying,
            reuse=reuse,
            vram=self._tool.vram,
            among=self._among,
            group=self._group,
        )

    def owners_of(self, claims: Collection[int]) -> str:
        """Return whose claims these are, for errors."""
        return ", ".join(self._devices.owners_of(claims))

    def has_room_beside(self, indices: tuple[int, ...]) -> bool:
        """Return whether a second worker could stand at once where one stands already."""
        if not indices:
            return True
        vram = self._tool.vram
        return vram is not None and self._devices.has_room(device_names(indices), vram=vram)

    async def acquire_beside(self, owner: Evictable, indices: tuple[int, ...]) -> Allocation:
        """Get the devices for a second worker, where `has_room_beside` says that there is room.

        Raises:
            TimeoutError: somebody was quicker.
        """
        # Outside the crew's group, of which only one may stand on a device.
        allocation = await self._devices.acquire(
            device_names(indices),
            owner=owner,
            vram=self._tool.vram,
            timeout=0,
            in_process=self._in_process,
        )
        allocation.pinned = self._pinned
        return allocation

    def memory_of(self, indices: tuple[int, ...]) -> int:
        """Return the bytes of the smallest of these devices; 0: of none, on the CPU."""
        return min(map(self._devices.capacity, indices), default=0)

    def larger_than(self, indices: tuple[int, ...]) -> frozenset[int]:
        """Return the devices with more memory than `indices` where a worker could go instead."""
        if len(indices) != 1 or self._spec.indices or self._spec.count != 1:
            return frozenset()
        most = self.memory_of(indices)
        usable = self._devices.managed if self._among is None else self._among
        managed = set(self._devices.managed)
        return frozenset(i for i in usable if i in managed and self._devices.capacity(i) > most)

    @property
    def _spec(self) -> DeviceSpec:
        return parse_device(self._tool.device)
