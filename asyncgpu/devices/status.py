"""Snapshots: what stands on the devices, and who waits. Frozen; nothing in them changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..policy.claims import Claim, ClaimState
from ..policy.device_inputs import Shape
from ..policy.device_table import DeviceTable
from ..policy.hold_times import HoldTimes
from ..policy.occupancy import Device
from ..policy.offload import OffloadStrategy
from ..policy.qos import QoSPolicy
from ..policy.wait_estimate import estimate_waits
from ..ports import DeviceInfo

__all__ = [
    "DeviceChange",
    "DeviceState",
    "DeviceStatus",
    "Eviction",
    "Holder",
    "QueuedRequest",
    "snapshot",
]


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody on a device."""

    id: int
    """The number of the claim; it stands on each of the claim's devices."""
    owner: str
    kind: str
    """``"lease"``, ``"resident"`` or ``"context"``."""
    state: str
    """``"held"``, or of a resident ``"starting"``, ``"idle"``, ``"busy"``, ``"evicting"``."""
    qos: QoSPolicy
    since: float
    """Seconds on the manager's clock, when it was granted."""
    reserved: int
    """Bytes set aside for it on this device."""
    pinned: bool


@dataclass(frozen=True, slots=True)
class DeviceState:
    """One device."""

    device: str
    """``"cuda:0"``."""
    index: int
    name: str
    uuid: str
    total_memory: int
    """Bytes."""
    reserved: int
    """Bytes set aside for its holders."""
    used_by_others: int
    """Bytes that other programs use and this one planned with, as last read."""
    managed: bool
    """Whether it takes new claims."""
    taken_by: str | None
    """Which other program that uses asyncgpu had it when it was last wanted here."""
    lost: str | None
    """Why it is gone for good."""
    holders: tuple[Holder, ...]
    """Oldest first."""


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """Somebody who waits."""

    id: int
    owner: str
    kind: str
    device: str
    """What is asked for, as a device string."""
    vram: int | None
    """Bytes asked for on each device; None: undeclared."""
    qos: QoSPolicy
    position: int
    """1 is served first."""
    since: float
    """Seconds on the manager's clock, when it began to wait."""
    estimated_wait: float | None
    """Seconds from now: a guess, from how long others have kept their devices; None: unknown."""
    reason: str
    """What it waits for, in words."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """Somebody who was made to leave."""

    time: float
    """Seconds on the manager's clock, when he was told."""
    claim: int
    owner: str
    devices: tuple[str, ...]
    running: bool
    """He was starting, or in a call."""
    reason: str
    """Why he, and for whom."""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """Everything, at one moment."""

    time: float
    """Seconds on the manager's clock."""
    devices: tuple[DeviceState, ...]
    queue: tuple[QueuedRequest, ...]
    """The first to be served first."""
    evictions: tuple[Eviction, ...]
    """The latest, oldest first."""
    offload_strategy: OffloadStrategy
    allow_multiple_per_device: bool


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """Something that happened, as `DeviceManager.watch` tells it."""

    time: float
    """Seconds on the manager's clock."""
    kind: str
    """``"queued"``, ``"granted"``, ``"rejected"``, ``"cancelled"``, ``"busy"``, ``"idle"``,
    ``"pinned"``, ``"unpinned"``, ``"evicting"``, ``"evicted"``, ``"released"``, ``"lost"`` (a
    device of it), ``"device lost"``, ``"taken"`` (a device, by another program) or
    ``"configured"``."""
    claim: int | None
    """None: it concerns all."""
    owner: str
    devices: tuple[str, ...]
    """Where, if it stands anywhere."""
    reason: str


def snapshot(
    table: DeviceTable,
    inventory: Mapping[int, DeviceInfo],
    holds: HoldTimes,
    evictions: Iterable[Eviction],
    now: float,
) -> DeviceStatus:
    """Return the state of `table` for people."""
    return DeviceStatus(
        time=now,
        devices=tuple(_device(device, inventory[device.index]) for device in table.devices()),
        queue=_queue(table, holds, now),
        evictions=tuple(evictions),
        offload_strategy=table.strategy,
        allow_multiple_per_device=table.packing,
    )


def _device(device: Device, info: DeviceInfo) -> DeviceState:
    holders = [claim for claim in device.claims.values() if claim.state is not ClaimState.PROMISED]
    return DeviceState(
        device=f"cuda:{device.index}",
        index=device.index,
        name=info.name,
        uuid=info.uuid,
        total_memory=device.capacity,
        reserved=device.present,
        used_by_others=device.others,
        managed=device.managed,
        taken_by=device.taken,
        lost=device.lost,
        holders=tuple(_holder(claim, device.index) for claim in holders),
    )


def _holder(claim: Claim, index: int) -> Holder:
    return Holder(
        id=claim.id,
        owner=claim.owner,
        kind=claim.shape.kind.value,
        state=claim.state.value,
        qos=claim.qos,
        since=claim.since,
        reserved=claim.charge(index),
        pinned=claim.pinned,
    )


def _queue(table: DeviceTable, holds: HoldTimes, now: float) -> tuple[QueuedRequest, ...]:
    waiting = table.waiting()
    waits = estimate_waits(waiting, table.occupancy, holds, now)
    first: dict[Shape, Claim] = {}
    queue = []
    for position, claim in enumerate(waiting, start=1):
        # What one of a shape waits for, the next ones wait for too; explaining looks at everything.
        before = (
            None if claim.state is ClaimState.PROMISED else first.setdefault(claim.shape, claim)
        )
        alone = before is None or before is claim
        reason = (
            table.explain(claim.id) if alone else f"waits behind {before!r}, which asks the same"
        )
        queue.append(_queued(claim, position, waits[claim.id], reason))
    return tuple(queue)


def _queued(claim: Claim, position: int, wait: float | None, reason: str) -> QueuedRequest:
    return QueuedRequest(
        id=claim.id,
        owner=claim.owner,
        kind=claim.shape.kind.value,
        device=str(claim.shape.spec),
        vram=claim.shape.vram,
        qos=claim.qos,
        position=position,
        since=claim.since,
        estimated_wait=wait,
        reason=reason,
    )
