"""`DeviceManager`: waits for devices, and performs what the device table decides.

Every change goes through `_tell`: the table is given an input and returns actions, which are
carried out on the spot. Nothing is awaited in between, so no lock is needed; what takes time, an
eviction, runs in a task of the runtime and is reported back as one more input.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal

import anyio
import anyio.lowlevel

from .. import ambient
from ..errors import InfeasibleRequest, NoRuntime
from ..policy.device_actions import DeviceAction, Evict, Grant, Reject
from ..policy.device_inputs import (
    Cancelled,
    ClaimKind,
    DeviceInput,
    Evicted,
    Released,
    Requested,
    Shape,
)
from ..policy.device_spec import DeviceChoice, DeviceSpec, parse_device
from ..policy.device_table import DeviceTable
from ..policy.offload import OffloadStrategy
from ..policy.qos import QoSPolicy
from ..ports import DeviceInfo
from ..promise import Promise, new_promise, resolve
from ..settings import Settings
from ..units import Size, parse_size, parse_timeout
from .allocation import Allocation, Evictable
from .changes import describe
from .lease import Lease, LeaseBlock
from .options import ManagedDevices, Options
from .status import DeviceStatus, snapshot
from .watching import Watch, Watchers

__all__ = ["DeviceManager", "OffloadStrategy"]

log = logging.getLogger("asyncgpu.devices")

# Claims travel with tasks, and tasks may meet several runtimes of one process: a number must mean
# one claim only.
_claim_ids = itertools.count(1)


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
    ) -> None:
        """Manage what the settings say.

        Args:
            inventory: the visible devices.
            settings: managed devices, packing, offload strategy, ageing.
            clock: seconds; never goes back.
            start_soon: runs a coroutine function in a task of the runtime.
            eviction_timeout: seconds after which an eviction counts as over.

        Raises:
            InvalidRequest: the settings name devices that are not there.
        """
        self._inventory = {info.index: info for info in inventory}
        self._clock = clock
        self._start_soon = start_soon
        self._eviction_timeout = eviction_timeout
        self._defaults = Options.from_settings(settings, tuple(sorted(self._inventory)))
        self._options = self._defaults
        configured = self._options.configured(self._inventory)
        self._table = DeviceTable(
            {info.index: info.total_memory for info in inventory},
            managed=configured.managed,
            packing=configured.packing,
            strategy=configured.strategy,
            ageing_seconds=settings.ageing_seconds,
        )
        self._asking: dict[int, _Asker] = {}
        self._allocations: dict[int, Allocation] = {}
        self._watchers = Watchers()
        self._closed = False

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
        self._tell(options.configured(self._inventory))
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
        return LeaseBlock(lambda: self._obtain(shape, qos, limit, None, _task_name()))

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

        Raises:
            InvalidRequest: an argument means nothing.
            InfeasibleRequest: it could never be met.
            TimeoutError: it was not met in time.
        """
        shape = Shape(
            ClaimKind.RESIDENT,
            parse_device(device),
            vram=_read_vram(vram),
            among=None if among is None else frozenset(among),
            group=group,
        )
        return await self._obtain(shape, qos, parse_timeout(timeout), owner, owner.name)

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
            InfeasibleRequest: it could never be met.
            TimeoutError: it was not met in time.
        """
        spec = DeviceSpec(DeviceChoice.EXACT, 1, (device_index,))
        shape = Shape(ClaimKind.CONTEXT, spec, vram=_read_vram(vram))
        return await self._obtain(shape, qos, parse_timeout(timeout), None, owner_name)

    # ------------------------------------------------------------------------------ seeing

    def status(self) -> DeviceStatus:
        """Return a snapshot of everything."""
        return snapshot(self._table, self._inventory, self._clock())

    def watch(self) -> Watch:
        """Return the changes from now on, as an async iterator; see `Watch`."""
        watch = self._watchers.add()
        if self._closed:
            watch.end()
        return watch

    def check_invariants(self) -> None:
        """Raise `AssertionError` if the table contradicts itself. For tests: it is slow."""
        self._table.check_invariants()

    def close(self) -> None:
        """Let whoever waits fail with `NoRuntime`, and end the watches. Idempotent."""
        self._closed = True
        for asker in self._asking.values():
            resolve(asker.promise, None)
        self._watchers.end()

    # ----------------------------------------------------------------------------- waiting

    async def _obtain(
        self,
        shape: Shape,
        qos: QoSPolicy,
        timeout: float | None,
        owner: Evictable | None,
        name: str,
    ) -> Allocation:
        # Cancelled here, nothing has been asked yet.
        await anyio.lowlevel.checkpoint()
        self._check_open()
        allocation = Allocation(next(_claim_ids), owner, name, self._tell)
        self._allocations[allocation.id] = allocation
        asker = self._asking[allocation.id] = _Asker(new_promise())
        try:
            request = Requested(allocation.id, shape, qos, ambient.claims.get(), name)
            await self._ask(request, allocation, asker, timeout)
        except BaseException:
            self._withdraw(allocation)
            raise
        finally:
            del self._asking[allocation.id]
        return allocation

    async def _ask(
        self, request: Requested, allocation: Allocation, asker: _Asker, timeout: float | None
    ) -> None:
        began = self._clock()
        self._tell(request)
        if not asker.promise.done():
            with anyio.move_on_after(timeout):
                await asker.promise
        if asker.rejected is not None:
            raise InfeasibleRequest(asker.rejected)
        if not allocation.granted:
            self._check_open()
            waited = self._clock() - began
            why = self._table.explain(allocation.id)
            raise TimeoutError(f"{request.shape.spec} not granted within {waited:.3g} s: it {why}")

    def _withdraw(self, allocation: Allocation) -> None:
        """Leave no trace of a request whose asker is gone, not even of a grant it did not see."""
        if allocation.granted:
            allocation.release()
        elif allocation.id in self._allocations:
            self._tell(Cancelled(allocation.id))

    def _check_open(self) -> None:
        if self._closed:
            raise NoRuntime("the runtime of these devices has been closed")

    # -------------------------------------------------------------------------- performing

    def _tell(self, input: DeviceInput) -> None:
        """Give the table an input and perform its actions."""
        now = self._clock()
        actions = self._table.handle(input, now)
        for action in actions:
            self._perform(action)
        if self._watchers:
            for change in describe(input, actions, self._allocations, now):
                self._watchers.tell(change)
        for ended in (input, *actions):
            if isinstance(ended, Released | Evicted | Cancelled | Reject):
                del self._allocations[ended.claim]

    def _perform(self, action: DeviceAction) -> None:
        match action:
            case Grant(claim, devices):
                self._allocations[claim]._grant(devices)
                resolve(self._asking[claim].promise, None)
            case Reject(claim, reason):
                self._asking[claim].rejected = reason
                resolve(self._asking[claim].promise, None)
            case Evict(claim, strategy):
                self._allocations[claim]._begin_eviction()
                self._start_soon(self._evict, self._allocations[claim], strategy)

    async def _evict(self, allocation: Allocation, strategy: OffloadStrategy) -> None:
        """Make the owner leave, even if the runtime is closing, but not for ever."""
        assert allocation.owner is not None
        try:
            with anyio.move_on_after(self._eviction_timeout, shield=True) as scope:
                await allocation.owner.evict(strategy)
            if scope.cancelled_caught:
                log.error("%r was not evicted in time; its devices count as free", allocation)
        except Exception:
            log.exception("evicting %r failed; its devices count as free", allocation)
        finally:
            if not allocation.released:
                allocation._end_eviction()
                self._tell(Evicted(allocation.id))


@dataclass(slots=True)
class _Asker:
    """One call that waits: woken by its promise, it looks what became of its request."""

    promise: Promise[None]
    rejected: str | None = None


def _read_vram(vram: Size | None) -> int | None:
    return None if vram is None else parse_size(vram, what="vram")


def _task_name() -> str:
    return anyio.get_current_task().name or ""
