"""`DeviceManager`: how a program asks for devices, configures them and sees who has them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal

import anyio

from ..policy.device_inputs import ClaimKind, Shape
from ..policy.device_spec import DeviceChoice, DeviceSpec, parse_device
from ..policy.device_table import DeviceTable
from ..policy.offload import OffloadStrategy
from ..policy.prospects import could_meet, has_room
from ..policy.qos import QoSPolicy
from ..ports import DeviceInfo
from ..settings import Settings
from ..units import Size, parse_size, parse_timeout
from .allocation import Allocation, Evictable
from .lease import Lease, LeaseBlock
from .locks import DeviceLocks
from .memories import DeviceMemories
from .options import ManagedDevices, Options
from .performer import Performer
from .readings import Readings
from .status import DeviceStatus, snapshot
from .watching import Watch

__all__ = ["DeviceManager", "OffloadStrategy"]


class DeviceManager:
    """Leases, residents and contexts on the devices of one machine. Used in its loop's thread."""

    def __init__(
        self,
        inventory: Sequence[DeviceInfo],
        *,
        settings: Settings,
        clock: Callable[[], float],
        start_soon: Callable[..., None],
        eviction_timeout: float = 120.0,
        memories: DeviceMemories | None = None,
        locks: DeviceLocks | None = None,
        readings: Readings | None = None,
    ) -> None:
        """Manage what the settings say.

        Args:
            inventory: the visible devices.
            settings: managed devices, packing, offload strategy, ageing.
            clock: seconds; never goes back.
            start_soon: runs a coroutine function in a task of the runtime.
            eviction_timeout: seconds after which an eviction counts as over.
            memories: what contexts use, beside which leases and residents need room; None: there
                are no contexts.
            locks: keep other programs off the devices that are in use here; None: nothing does.
            readings: what the driver says of the devices; None: other programs' use does not
                count, and a device that is lost is not noticed.

        Raises:
            InvalidRequest: the settings name devices that are not there.
        """
        self._inventory = {info.index: info for info in inventory}
        self._clock = clock
        self._defaults = Options.from_settings(settings, tuple(sorted(self._inventory)))
        self._options = self._defaults
        configured = self._options.configured(self._inventory)
        self._table = DeviceTable(
            {info.index: info.total_memory for info in inventory},
            managed=configured.managed,
            packing=configured.packing,
            strategy=configured.strategy,
            ageing_seconds=settings.ageing_seconds,
            locks=locks is not None,
        )
        self._performer = Performer(
            self._table,
            clock=clock,
            start_soon=start_soon,
            eviction_timeout=eviction_timeout,
            memories=memories,
            locks=locks,
            readings=readings,
        )

    async def look_out(self) -> None:
        """Keep an eye on other programs and on lost devices, until `close`."""
        await self._performer.lookout.run()

    def suspect(self) -> None:
        """Ask the driver soon whether a device is lost: somebody has had a `DeviceLost`.

        A fault may be one process's own, which a new process does not have; so only the driver's
        word counts.
        """
        self._performer.lookout.suspect()

    # ------------------------------------------------------------------------- configuring

    @property
    def managed(self) -> tuple[int, ...]:
        """Logical indices of the devices that take new claims."""
        return self._table.occupancy.managed

    def configure(
        self,
        *,
        managed_devices: ManagedDevices | None = None,
        offload_strategy: OffloadStrategy | str | None = None,
        allow_multiple_per_device: bool | Literal["auto"] | None = None,
    ) -> None:
        """Change how devices are managed; all of it or, on an error, nothing.

        Nobody is thrown off a device that is no longer managed: it takes nobody new, idle
        residents are evicted, and everybody else leaves in his own time.

        Args:
            managed_devices: ``"cuda:0,cuda:1"``, ``"0,1"`` or a list of indices and names.
            offload_strategy: what evicted workers are told to do.
            allow_multiple_per_device: whether leases and residents may share a device.
                Each: None leaves it as it is, ``"auto"`` resets it to what the settings say.

        Raises:
            InvalidRequest: a value that means nothing, or a device that is not there.
        """
        options = self._options.changed(
            self._defaults, managed_devices, offload_strategy, allow_multiple_per_device
        )
        self._performer.tell(options.configured(self._inventory))
        self._options = options

    # ---------------------------------------------------------------------------- claiming

    def lease(
        self,
        device: str = "cuda",
        *,
        vram: Size | None = None,
        qos: QoSPolicy = QoSPolicy.BURSTABLE,
        preempt: bool = False,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold devices for a block; nobody is evicted from a lease.

        Args:
            device: what is wanted, such as ``"cuda"``, ``"cudax2"``, ``"cuda:0,1"``, ``"cpu"``.
            vram: bytes reserved on each device; None: undeclared.
            qos: decides, with the time of arrival, who is served first.
            preempt: running residents of the same or a lower class may be evicted for it, if no
                idle ones will do; their calls run again elsewhere.
            timeout: seconds to wait; None: as long as it takes.

        Raises:
            InvalidRequest: `device` cannot be read, or another argument means nothing.
            DeviceLost: on entering: it cannot be met any more; on leaving: a device of it has gone
                meanwhile.
            InfeasibleRequest: on entering: it could never be met.
            TimeoutError: on entering: it was not met in time.
        """
        shape = Shape(
            ClaimKind.LEASE,
            parse_device(device),
            vram=_read_vram(vram),
            preempts=qos if preempt else None,
        )
        limit = parse_timeout(timeout)
        return LeaseBlock(lambda: self._performer.obtain(shape, qos, limit, None, _task_name()))

    async def acquire(
        self,
        device: str,
        *,
        owner: Evictable,
        vram: Size | None = None,
        qos: QoSPolicy = QoSPolicy.BURSTABLE,
        timeout: float | None = None,
        among: Collection[int] | None = None,
        group: Hashable = None,
        in_process: bool = False,
    ) -> Allocation:
        """Wait for devices for a resident, which may be evicted from them while it is idle.

        Args:
            device: as for `lease`.
            owner: who is asked to leave.
            vram: bytes reserved on each device; None: undeclared.
            qos: decides, with the time of arrival, who is served first.
            timeout: seconds to wait; None: as long as it takes.
            among: logical indices that will do; None: all managed devices.
            group: at most one claim of a group stands on a device; None: no group.
            in_process: it uses its memory through a context of this process, which counts it.

        Raises:
            InvalidRequest: an argument means nothing.
            DeviceLost: it cannot be met any more: a device is gone.
            InfeasibleRequest: it could never be met.
            TimeoutError: it was not met in time.
        """
        shape = Shape(
            ClaimKind.RESIDENT,
            parse_device(device),
            vram=_read_vram(vram),
            among=None if among is None else frozenset(among),
            group=group,
            in_process=in_process,
        )
        return await self._performer.obtain(shape, qos, parse_timeout(timeout), owner, owner.name)

    def capacity(self, index: int) -> int:
        """Return the bytes of a device that this program may plan with."""
        return self._table.occupancy.devices[index].capacity

    def owners_of(self, claims: Collection[int]) -> list[str]:
        """Return the names of those who hold these claims, oldest first."""
        found = (self._table.claim(id_) for id_ in sorted(claims))
        return [claim.owner for claim in found if claim is not None]

    def has_room(self, device: str, *, vram: Size) -> bool:
        """Return whether a resident could have exactly these devices now, beside who is there.

        Args:
            device: names them, as ``"cuda:0,1"``.
            vram: bytes reserved on each.
        """
        shape = Shape(ClaimKind.RESIDENT, parse_device(device), vram=_read_vram(vram))
        return has_room(shape, self._table)

    def could_meet(
        self,
        device: str,
        *,
        held: Collection[int],
        staying: Collection[int],
        reuse: bool,
        vram: Size | None = None,
        among: Collection[int] | None = None,
        group: Hashable = None,
    ) -> bool:
        """Return whether `acquire` could be answered some day, although some claims never end.

        Args:
            device: as for `acquire`, and so are the sizes, `among` and `group`.
            held: claims of the asker.
            staying: claims of residents that stay.
            reuse: the asker's own leases may be what answers it.
            vram: bytes reserved on each device.
            among: logical indices that will do.
            group: at most one claim of a group stands on a device.
        """
        shape = Shape(
            ClaimKind.RESIDENT,
            parse_device(device),
            vram=_read_vram(vram),
            among=None if among is None else frozenset(among),
            group=group,
        )
        return could_meet(shape, self._table, held, staying, reuse=reuse)

    async def reserve(
        self,
        device_index: int,
        *,
        owner_name: str,
        vram: Size,
        qos: QoSPolicy,
        timeout: float | None = None,
    ) -> Allocation:
        """Wait for a share of one device for an execution context.

        Args:
            device_index: the logical index.
            owner_name: for errors and the status.
            vram: bytes reserved; 0: none.
            qos: decides, with the time of arrival, who is served first.
            timeout: seconds to wait; None: as long as it takes.

        Raises:
            InvalidRequest: an argument means nothing.
            DeviceLost: it cannot be met any more: a device is gone.
            InfeasibleRequest: it could never be met.
            TimeoutError: it was not met in time.
        """
        spec = DeviceSpec(DeviceChoice.EXACT, 1, (device_index,))
        shape = Shape(ClaimKind.CONTEXT, spec, vram=_read_vram(vram))
        return await self._performer.obtain(shape, qos, parse_timeout(timeout), None, owner_name)

    # ------------------------------------------------------------------------------ seeing

    def status(self) -> DeviceStatus:
        """Return a snapshot of everything."""
        performer = self._performer
        performer.lookout.try_locks(wanted=False)
        return snapshot(
            self._table, self._inventory, performer.holds, performer.evictions, self._clock()
        )

    def watch(self) -> Watch:
        """Return the changes from now on, as an async iterator; see `Watch`."""
        return self._performer.watch()

    def check_invariants(self) -> None:
        """Raise `AssertionError` if the table contradicts itself. For tests: it is slow."""
        self._table.check_invariants()

    def close(self) -> None:
        """Let whoever waits fail with `NoRuntime`, and end the watches. Idempotent."""
        self._performer.close()


def _read_vram(vram: Size | None) -> int | None:
    return None if vram is None else parse_size(vram, what="vram")


def _task_name() -> str:
    return anyio.get_current_task().name or ""
