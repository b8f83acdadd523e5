"""`DeviceManager`: performs what the device table decides. Waiting for a GPU is an ``await``.

The table is told what happens and answers with actions; this resolves the promises of those who
wait and runs evictions as tasks of the runtime. No lock is held and nothing slow is done between a
question to the table and the end of its answer, so the loop never waits for an eviction.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress

import anyio

from .. import ambient
from ..errors import InfeasibleRequest, InvalidRequest
from ..policy.claims import ClaimState
from ..policy.device_actions import DeviceAction, Evict, Grant, Reject
from ..policy.device_inputs import (
    Cancelled,
    ClaimKind,
    Configured,
    DeviceInput,
    Evicted,
    Released,
    Requested,
    Shape,
)
from ..policy.device_spec import DeviceChoice, DeviceSpec, parse_device, parse_managed_devices
from ..policy.device_table import DeviceTable
from ..policy.offload import OffloadStrategy
from ..policy.qos import QoSPolicy
from ..ports import DeviceInfo
from ..promise import Promise, new_promise, resolve
from ..settings import Settings
from ..units import Size, parse_size
from .allocation import Allocation, Evictable
from .lease import Lease
from .status import DeviceChange, DeviceStatus, take_status
from .watching import Watchers

__all__ = ["DeviceManager"]

log = logging.getLogger("asyncgpu.devices")

# Far above what a worker's stop or a model's way to host memory takes. An owner that is not done by
# then is reported, and its devices are given on: a queue that stands still helps nobody.
_EVICTION_LIMIT = 60.0


class DeviceManager:
    """Leases, residents and contexts on the devices of one machine."""

    def __init__(
        self,
        inventory: Sequence[DeviceInfo],
        *,
        settings: Settings,
        clock: Callable[[], float],
        start_soon: Callable[..., None],
    ) -> None:
        """Know the devices; nothing is held yet.

        Args:
            inventory: the visible devices.
            settings: which of them to manage, and how.
            clock: the loop's, in seconds.
            start_soon: starts a task that the runtime owns.

        Raises:
            InvalidRequest: the settings name devices that cannot be read or are not there.
        """
        self._infos = {info.index: info for info in inventory}
        self._clock = clock
        self._start_soon = start_soon
        self._ids = itertools.count(1)
        self._waiters: dict[int, Promise[Grant | Reject]] = {}
        self._owners: dict[int, Evictable] = {}
        self._watchers = Watchers()
        self._packing, self._strategy = self._allowed(
            settings.allow_multiple_per_device, OffloadStrategy(settings.offload_strategy)
        )
        managed = settings.managed_devices
        self._table = DeviceTable(
            {index: info.total_memory for index, info in self._infos.items()},
            managed=None if managed is None else parse_managed_devices(managed),
            packing=self._packing,
            strategy=self._strategy,
            ageing_seconds=settings.ageing_seconds,
        )

    # -------------------------------------------------------------------- configuration

    @property
    def managed(self) -> tuple[int, ...]:
        """Logical indices of the devices that take new holders, ascending."""
        return self._table.occupancy.managed

    def configure(
        self,
        *,
        managed_devices: str | Iterable[str] | None = None,
        offload_strategy: OffloadStrategy | str | None = None,
        allow_multiple_per_device: bool | None = None,
    ) -> None:
        """Change what is managed and how; None leaves it as it is.

        Holders of a device that is no longer managed stay until they are done; idle residents
        leave. Waiters that can have a new device get it at once.

        Args:
            managed_devices: ``"cuda:0,cuda:1"``, ``"0,1"``, a list of names, or ``"auto"`` for all.
            offload_strategy: what becomes of who is evicted.
            allow_multiple_per_device: several holders may share a device.

        Raises:
            InvalidRequest: something means nothing or is not there; nothing has changed.
        """
        managed = self._read_managed(managed_devices)
        strategy = self._strategy
        if offload_strategy is not None:
            strategy = _read_strategy(offload_strategy)
        packing = self._packing
        if allow_multiple_per_device is not None:
            packing = bool(allow_multiple_per_device)
        packing, strategy = self._allowed(packing, strategy)
        self.tell(Configured(managed, packing, strategy))
        self._packing, self._strategy = packing, strategy

    def _read_managed(self, devices: str | Iterable[str] | None) -> tuple[int, ...]:
        if devices is None:
            return self.managed
        if devices == "auto":
            return tuple(self._infos)
        text = devices if isinstance(devices, str) else ",".join(map(str, devices))
        return parse_managed_devices(text)

    def _allowed(self, packing: bool, strategy: OffloadStrategy) -> tuple[bool, OffloadStrategy]:
        """Return what the devices' compute modes allow."""
        exclusive = [info.index for info in self._infos.values() if info.exclusive_process]
        if not exclusive or (not packing and strategy is OffloadStrategy.RESTART):
            return packing, strategy
        log.warning(
            "cuda:%d lets only one process use it: no sharing, and who is evicted is restarted",
            exclusive[0],
        )
        return False, OffloadStrategy.RESTART

    # -------------------------------------------------------------------------- holding

    @asynccontextmanager
    async def lease(
        self,
        device: str = "cuda",
        *,
        vram: Size | None = None,
        qos: QoSPolicy = QoSPolicy.BURSTABLE,
        preempt: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[Lease]:
        """Hold devices for a block; nobody takes them away.

        Args:
            device: ``"cuda"``, ``"cudax2"``, ``"cuda:0,1"``, ``"cpu"``.
            vram: bytes needed on each device; with packing, what is declared is reserved.
            qos: waiters are served by class, then arrival, with ageing.
            preempt: running workers of the same class or a lower one may be stopped for it; what
                they run is run again.
            timeout: seconds to wait; None: as long as it takes.

        Raises:
            InvalidDevice: `device` cannot be read.
            InfeasibleRequest: it could never be met, or only by what the asker holds itself.
            TimeoutError: it was not met in time.
        """
        shape = self._shape(ClaimKind.LEASE, device, vram, preempts=qos if preempt else None)
        grant = await self._obtain(shape, qos, "lease", timeout)
        token = ambient.claims.set(ambient.claims.get() | {grant.claim})
        try:
            allocation = Allocation(self, grant.claim, grant.devices)
            yield Lease(allocation.id, allocation.devices, allocation.indices)
        finally:
            # A block that is closed from another task leaves that task's variable alone.
            with suppress(ValueError):
                ambient.claims.reset(token)
            self.tell(Released(grant.claim))

    async def acquire(
        self,
        device: str,
        *,
        owner: Evictable,
        vram: Size | None = None,
        qos: QoSPolicy = QoSPolicy.BURSTABLE,
        timeout: float | None = None,
        among: Iterable[int] | None = None,
        group: Hashable = None,
    ) -> Allocation:
        """Wait for devices for a resident, which is evicted for others while it is idle.

        Args:
            device: as for `lease`.
            owner: is told to leave, when its time has come.
            vram: bytes needed on each device.
            qos: its class in the queue.
            timeout: seconds to wait; None: as long as it takes.
            among: logical indices it may use; None: every managed device.
            group: at most one resident of a group stands on a device; None: no group.

        Raises:
            InvalidDevice: `device` cannot be read.
            InfeasibleRequest: it could never be met, or only by what the asker holds itself.
            TimeoutError: it was not met in time.
        """
        shape = self._shape(
            ClaimKind.RESIDENT,
            device,
            vram,
            among=None if among is None else frozenset(among),
            group=group,
        )
        grant = await self._obtain(shape, qos, owner.name, timeout)
        self._owners[grant.claim] = owner
        return Allocation(self, grant.claim, grant.devices)

    async def reserve(
        self,
        device: int,
        *,
        owner_name: str,
        vram: int,
        qos: QoSPolicy,
        timeout: float | None = None,
    ) -> Allocation:
        """Wait for an execution context's share of one device, `vram` bytes of it reserved.

        Raises:
            InfeasibleRequest: the device is not managed, or smaller than `vram`.
            TimeoutError: it was not met in time.
        """
        spec = DeviceSpec(DeviceChoice.EXACT, 1, (device,))
        shape = Shape(ClaimKind.CONTEXT, spec, vram)
        grant = await self._obtain(shape, qos, owner_name, timeout)
        return Allocation(self, grant.claim, grant.devices)

    def _shape(
        self,
        kind: ClaimKind,
        device: str,
        vram: Size | None,
        *,
        among: frozenset[int] | None = None,
        group: Hashable = None,
        preempts: QoSPolicy | None = None,
    ) -> Shape:
        nbytes = None if vram is None else parse_size(vram, what="vram")
        return Shape(kind, parse_device(device), nbytes, among, group, preempts)

    async def _obtain(
        self, shape: Shape, qos: QoSPolicy, owner: str, timeout: float | None
    ) -> Grant:
        claim = next(self._ids)
        outcome: Promise[Grant | Reject] = new_promise()
        self._waiters[claim] = outcome
        self.tell(Requested(claim, shape, qos, ambient.claims.get(), owner))
        try:
            with anyio.fail_after(timeout):
                answer = await outcome
        except TimeoutError:
            why = self._table.explain(claim)
            self._withdraw(claim)
            raise TimeoutError(f"{owner}: not granted within {timeout:g} s; it {why}") from None
        except BaseException:
            self._withdraw(claim)
            raise
        finally:
            del self._waiters[claim]
        if isinstance(answer, Reject):
            raise InfeasibleRequest(answer.reason)
        return answer

    def _withdraw(self, claim: int) -> None:
        """Leave no trace of a request whose asker is gone, also if it was granted just now."""
        state = self.state_of(claim)
        if state.granted:
            self.tell(Released(claim))
        elif state is not ClaimState.GONE:
            self.tell(Cancelled(claim))

    # -------------------------------------------------------------------------- looking

    def status(self) -> DeviceStatus:
        """Return who holds what, since when, and who waits for it and why."""
        return take_status(self._table, self._infos, self._clock())

    def watch(self) -> AsyncIterator[DeviceChange]:
        """Yield every change from now on. One that reads slowly loses the oldest."""
        return self._watchers.watch()

    def state_of(self, claim: int) -> ClaimState:
        """Return where a claim stands; GONE if the table has forgotten it."""
        found = self._table.claim(claim)
        return ClaimState.GONE if found is None else found.state

    # ----------------------------------------------------------------------- performing

    def tell(self, input: DeviceInput) -> None:
        """Report to the device table and carry out what it answers.

        Raises:
            InvalidTransition: a bug of ours; nothing has changed.
        """
        claim = getattr(input, "claim", 0)
        if isinstance(input, (Released, Evicted)):
            what = "released" if isinstance(input, Released) else "evicted"
            self._announce(claim, what, "")
            self._owners.pop(claim, None)
        for action in self._table.handle(input, self._clock()):
            self._perform(action)

    def _perform(self, action: DeviceAction) -> None:
        if isinstance(action, Evict):
            self._announce(action.claim, "evicting", action.reason)
            self._start_soon(self._evict, action.claim)
            return
        self._announce(
            action.claim, "granted" if isinstance(action, Grant) else "rejected", action.reason
        )
        resolve(self._waiters[action.claim], action)

    async def _evict(self, claim: int) -> None:
        owner = self._owners.get(claim)
        try:
            if owner is not None:
                with anyio.CancelScope(shield=True), anyio.fail_after(_EVICTION_LIMIT):
                    await owner.evict(self._strategy)
        except Exception:
            log.exception("%s did not leave its device properly", owner and owner.name)
        finally:
            if self.state_of(claim) is ClaimState.EVICTING:
                self.tell(Evicted(claim))

    def _announce(self, claim: int, what: str, reason: str) -> None:
        if not self._watchers:
            return
        found = self._table.claim(claim)
        devices = () if found is None else tuple(f"cuda:{index}" for index in found.devices)
        owner = "" if found is None else found.owner
        self._watchers.tell(DeviceChange(self._clock(), claim, owner, what, devices, reason))


def _read_strategy(strategy: OffloadStrategy | str) -> OffloadStrategy:
    try:
        return OffloadStrategy(strategy)
    except ValueError:
        raise InvalidRequest(
            f"offload_strategy: {strategy!r} is neither 'restart' nor 'cpu'"
        ) from None
