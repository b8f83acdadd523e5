"""Snapshots: what stands on the devices, and who waits. Frozen; nothing in them changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..policy.claims import Claim, ClaimState
from ..policy.device_inputs import Shape
from ..policy.device_table import DeviceTable
from ..policy.occupancy import Device
from ..policy.offload import OffloadStrategy
from ..policy.qos import QoSPolicy
from ..ports import DeviceInfo

__all__ = ["DeviceChange", "DeviceState", "DeviceStatus", "Holder", "QueuedRequest", "snapshot"]


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
    managed: bool
    """Whether it takes new claims."""
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
    reason: str
    """What it waits for, in words."""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """Everything, at one moment."""

    time: float
    """Seconds on the manager's clock."""
    devices: tuple[DeviceState, ...]
    queue: tuple[QueuedRequest, ...]
    """The first to be served first."""
    offload_strategy: OffloadStrategy
    allow_multiple_per_device: bool


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """Something that happened, as `DeviceManager.watch` tells it."""

    time: float
    """Seconds on the manager's clock."""
    kind: str
    """``"queued"``, ``"granted"``, ``"rejected"``, ``"cancelled"``, ``"busy"``, ``"idle"``,
    ``"pinned"``, ``"unpinned"``, ``"evicting"``, ``"evicted"``, ``"released"`` or
    ``"configured"``."""
    claim: int | None
    """None: it concerns all."""
    owner: str
    devices: tuple[str, ...]
    """Where, if it stands anywhere."""
    reason: str


def snapshot(table: DeviceTable, inventory: Mapping[int, DeviceInfo], now: float) -> DeviceStatus:
    """Return the state of `table` for people."""
    return DeviceStatus(
        time=now,
        devices=tuple(_device(device, inventory[device.index]) for device in table.devices()),
        queue=_queue(table),
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
        managed=device.managed,
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


def _queue(table: DeviceTable) -> tuple[QueuedRequest, ...]:
    first: dict[Shape, Claim] = {}
    queue = []
    for position, claim in enumerate(table.waiting(), start=1):
        # What one of a shape waits for, the next ones wait for too; explaining looks at everything.
        before = (
            None if claim.state is ClaimState.PROMISED else first.setdefault(claim.shape, claim)
        )
        alone = before is None or before is claim
        reason = (
            table.explain(claim.id) if alone else f"waits behind {before!r}, which asks the same"
        )
        queue.append(_queued(claim, position, reason))
    return tuple(queue)


def _queued(claim: Claim, position: int, reason: str) -> QueuedRequest:
    return QueuedRequest(
        id=claim.id,
        owner=claim.owner,
        kind=claim.shape.kind.value,
        device=str(claim.shape.spec),
        vram=claim.shape.vram,
        qos=claim.qos,
        position=position,
        since=claim.since,
        reason=reason,
    )
