"""`DeviceStatus`: who holds what, since when, and why the next one waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..policy.claims import Claim
from ..policy.device_table import DeviceTable
from ..policy.offload import OffloadStrategy
from ..policy.qos import QoSPolicy
from ..ports import DeviceInfo

__all__ = ["DeviceChange", "DeviceState", "DeviceStatus", "Holder", "Waiter", "take_status"]


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody on a device."""

    id: int
    owner: str
    kind: str
    """``"lease"``, ``"resident"`` or ``"context"``."""
    state: str
    """``"held"``, or a resident's ``"starting"``, ``"idle"``, ``"busy"``, ``"evicting"``."""
    vram: int | None
    """Bytes it declared for each of its devices; None: it declared nothing."""
    held_for: float
    """Seconds since it was granted."""


@dataclass(frozen=True, slots=True)
class DeviceState:
    """One device."""

    device: str
    """Its logical name: ``"cuda:0"``."""
    name: str
    """The model, as the driver says it."""
    uuid: str
    managed: bool
    total: int
    """Bytes that may be planned with."""
    reserved: int
    """Bytes that its holders have declared."""
    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class Waiter:
    """Somebody in the queue."""

    id: int
    owner: str
    kind: str
    device: str
    """What it asked for: ``"cudax2"``."""
    qos: QoSPolicy
    position: int
    """1 is served next."""
    waiting_for: float
    """Seconds since it asked."""
    reason: str
    """What stands between it and its devices."""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A snapshot of all devices and of the queue."""

    devices: tuple[DeviceState, ...]
    queue: tuple[Waiter, ...]
    packing: bool
    """Several holders may share a device."""
    strategy: OffloadStrategy
    """What becomes of who is evicted."""


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """One thing that happened to a holder or a waiter."""

    time: float
    """Seconds on the loop's clock."""
    id: int
    owner: str
    what: str
    """``"granted"``, ``"rejected"``, ``"evicting"``, ``"released"``, ``"evicted"``."""
    devices: tuple[str, ...]
    reason: str


def take_status(table: DeviceTable, infos: Mapping[int, DeviceInfo], now: float) -> DeviceStatus:
    """Return a snapshot of `table` at `now` seconds."""
    return DeviceStatus(
        devices=tuple(
            DeviceState(
                device=f"cuda:{device.index}",
                name=infos[device.index].name,
                uuid=infos[device.index].uuid,
                managed=device.managed,
                total=device.capacity,
                reserved=device.present,
                holders=tuple(
                    _holder(claim, now) for claim in device.claims.values() if claim.state.granted
                ),
            )
            for device in table.devices()
        ),
        queue=tuple(
            _waiter(claim, place, table.explain(claim.id), now)
            for place, claim in enumerate(table.waiting(), start=1)
        ),
        packing=table.occupancy.packing,
        strategy=table.strategy,
    )


def _holder(claim: Claim, now: float) -> Holder:
    return Holder(
        id=claim.id,
        owner=claim.owner,
        kind=claim.shape.kind.value,
        state=claim.state.value,
        vram=claim.shape.vram,
        held_for=now - claim.since,
    )


def _waiter(claim: Claim, position: int, reason: str, now: float) -> Waiter:
    return Waiter(
        id=claim.id,
        owner=claim.owner,
        kind=claim.shape.kind.value,
        device=str(claim.shape.spec),
        qos=claim.qos,
        position=position,
        waiting_for=now - claim.since,
        reason=reason,
    )
