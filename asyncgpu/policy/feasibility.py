"""Feasibility: could a request ever be met, and would it have to wait for its own asker?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..units import format_size
from .claims import Claim, ClaimState
from .device_inputs import ClaimKind, Shape
from .device_spec import device_names
from .occupancy import Device, Occupancy
from .placement import eligible, has_group, may_coexist

__all__ = ["lost_for", "why_infeasible", "without_waiting_for_oneself"]


def why_infeasible(shape: Shape, occupancy: Occupancy) -> str | None:
    """Return why no amount of waiting could meet `shape`; None: it could be met.

    Holders do not count, whoever they are: they end. What counts is what is managed.
    """
    devices = occupancy.devices.values()
    if not devices:
        return (
            f"{shape.spec}: no GPU found; on a machine without one, set "
            "ASYNCGPU_VIRTUAL_DEVICES to make virtual ones, for example '2x8GiB'"
        )
    if _count_eligible(shape, occupancy) >= shape.spec.count:
        return None
    if lost := lost_for(shape, occupancy):
        return f"{shape.spec}: " + "; ".join(f"cuda:{d.index} is lost: {d.lost}" for d in lost)
    managed = [device for device in devices if device.managed]
    allowed = [d for d in managed if shape.among is None or d.index in shape.among]
    where = f"managed: {_names(managed)}"
    if shape.among is not None:
        where += f"; usable by this request: {_names(allowed)}"
    missing = [i for i in shape.spec.indices if all(i != device.index for device in allowed)]
    if missing:
        return f"{shape.spec}: {device_names(tuple(missing))} cannot be had ({where})"
    if shape.spec.count > len(allowed):
        return f"{shape.spec}: {shape.spec.count} devices asked ({where})"
    if shape.spec.indices:
        allowed = [device for device in allowed if device.index in shape.spec.indices]
    return _too_large(shape, allowed)


def lost_for(shape: Shape, occupancy: Occupancy) -> list[Device]:
    """Return the lost devices with which an infeasible `shape` would be feasible."""
    named = shape.spec.indices or shape.among
    lost = [
        device
        for device in occupancy.devices.values()
        if device.lost is not None
        and device.index in occupancy.chosen
        and (named is None or device.index in named)
        and (shape.vram or 0) <= device.capacity
    ]
    there = _count_eligible(shape, occupancy)
    return lost if there < shape.spec.count <= there + len(lost) else []


def without_waiting_for_oneself(
    shape: Shape, occupancy: Occupancy, own: Sequence[Claim]
) -> Mapping[int, Claim] | str | None:
    """Decide how a feasible request of an asker that holds the claims `own` may go on.

    Returns:
        None: it can be met beside what the asker holds, so it may wait like any other.
        Devices and for each the asker's lease to live in: it can be met by reusing them only.
        A message: not even so; it would wait for itself.
    """
    candidates = [device for device in occupancy.devices.values() if eligible(device, shape)]
    beside = [d for d in candidates if not _blocked(d, shape, own, packing=occupancy.packing)]
    if len(beside) >= shape.spec.count:
        return None
    # The innermost lease first: it was made for the work that asks.
    leases = [claim for claim in reversed(own) if claim.shape.kind is ClaimKind.LEASE]
    reused: dict[int, Claim] = {}
    for device in candidates:
        lease = next((lease for lease in leases if _covers(lease, device, shape)), None)
        if lease is not None:
            reused[device.index] = lease
    if len(reused) >= shape.spec.count:
        order = shape.spec.indices or sorted(reused)[: shape.spec.count]
        return {index: reused[index] for index in order}
    holds = ", ".join(f"{claim.shape.kind.value} on {device_names(claim.devices)}" for claim in own)
    return f"{shape.spec}: it would wait for itself; its asker holds {holds}"


def _count_eligible(shape: Shape, occupancy: Occupancy) -> int:
    named = shape.spec.indices or shape.among
    if named is None:
        return occupancy.count_managed(shape.vram or 0)
    devices = occupancy.devices
    return sum(eligible(devices[index], shape) for index in named if index in devices)


def _too_large(shape: Shape, allowed: Sequence[Device]) -> str:
    largest = max(device.capacity for device in allowed)
    return (
        f"{shape.spec}: {format_size(shape.vram or 0)} asked on each of {shape.spec.count} "
        f"devices; the largest of {_names(allowed)} has {format_size(largest)}"
    )


def _blocked(device: Device, shape: Shape, own: Sequence[Claim], *, packing: bool) -> bool:
    """Return whether the asker's own claims alone keep `shape` off `device`.

    An idle resident does not: it can be evicted. Nor does one that leaves already.
    """
    here = [
        claim
        for claim in own
        if claim.id in device.claims and not (claim.evictable or claim.state is ClaimState.EVICTING)
    ]
    needed = (shape.vram or 0) + sum(claim.charge(device.index) for claim in here)
    return needed > device.capacity or not all(
        may_coexist(shape, claim.shape, packing=packing) for claim in here
    )


def _covers(lease: Claim, device: Device, shape: Shape) -> bool:
    """Return whether `shape` can live on `device` out of what `lease` holds there."""
    if lease.id not in device.claims or has_group(device, shape):
        return False
    strangers = [c for c in device.claims.values() if c is not lease and not c.is_kin(lease)]
    # Strangers beside the lease have to bear whom it lets in, so packing is as good as on.
    if not all(may_coexist(shape, other.shape, packing=True) for other in strangers):
        return False
    if shape.vram is None:
        return True
    if lease.shape.vram is None:
        return shape.vram <= device.free
    lent = sum(
        c.shape.vram or 0 for c in device.claims.values() if c.covers.get(device.index) is lease
    )
    return lent + shape.vram <= lease.shape.vram


def _names(devices: Sequence[Device]) -> str:
    return device_names(tuple(device.index for device in devices)) if devices else "none"
