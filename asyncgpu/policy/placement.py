"""Placement: who may stand beside whom, and which devices a request can have now."""

from __future__ import annotations

from collections.abc import Collection

from .claims import Claim, ClaimState
from .device_inputs import ClaimKind, Shape
from .device_spec import DeviceChoice
from .occupancy import Device, Occupancy, Rank

__all__ = [
    "admits",
    "declared",
    "eligible",
    "free_devices",
    "has_group",
    "is_kept_from",
    "kept_from_contexts",
    "may_coexist",
    "needed_beside",
    "would_admit",
]


def may_coexist(shape: Shape, other: Shape, *, packing: bool) -> bool:
    """Return whether claims of two different askers may stand on one device, bytes aside.

    Contexts share with contexts. Leases and residents share only if packing is on, and with a
    context only if they declare their memory: a context's budget means nothing beside a process
    that takes what it likes.
    """
    if shape.group is not None and shape.group == other.group:
        return False
    contexts = (shape.kind is ClaimKind.CONTEXT) + (other.kind is ClaimKind.CONTEXT)
    if contexts == 2:
        return True
    if contexts == 0 or not packing:
        return packing
    worker = other if shape.kind is ClaimKind.CONTEXT else shape
    return worker.vram is not None


def admits(device: Device, shape: Shape, *, packing: bool) -> bool:
    """Return whether one more claim of `shape` can stand on `device` now."""
    if device.taken is not None or needed_beside(device, shape) > device.free:
        return False
    return not device.claims or all(
        may_coexist(shape, claim.shape, packing=packing) for claim in device.claims.values()
    )


def needed_beside(device: Device, shape: Shape) -> int:
    """Return the bytes that a claim of `shape` needs there, with what other programs have of them.

    What contexts may use is looked after where it is used: their reservations are promises of
    this program to itself, and what it cannot keep of them shows when they allocate.
    """
    if not shape.vram:
        return 0
    return shape.vram if shape.kind is ClaimKind.CONTEXT else shape.vram + device.others


def would_admit(device: Device, shape: Shape, gone: Collection[int], *, packing: bool) -> bool:
    """Return the same for the time when the claims `gone`, and all leaving ones, have left."""
    staying = [
        claim
        for claim in device.claims.values()
        if claim.state is not ClaimState.EVICTING and claim.id not in gone
    ]
    bytes_needed = needed_beside(device, shape) + sum(c.charge(device.index) for c in staying)
    return bytes_needed <= device.capacity and all(
        may_coexist(shape, claim.shape, packing=packing) for claim in staying
    )


def eligible(device: Device, shape: Shape) -> bool:
    """Return whether `shape` could stand on `device` if nobody else did."""
    spec = shape.spec
    return (
        device.managed
        and (shape.vram or 0) <= device.capacity
        and (shape.among is None or device.index in shape.among)
        and (spec.kind is not DeviceChoice.EXACT or device.index in spec.indices)
    )


def has_group(device: Device, shape: Shape) -> bool:
    """Return whether a claim of the group of `shape` stands on `device`."""
    here = device.claims.values()
    return shape.group is not None and any(claim.shape.group == shape.group for claim in here)


def is_kept_from(device: Device, claim: Claim) -> bool:
    """Return whether an earlier waiter has its hand on `device`.

    A context that reserves nothing takes nothing from a context that waits for memory.
    """
    first = device.earmark
    if first is None or claim.order <= first.order:
        return False
    harmless = (
        claim.shape.kind is ClaimKind.CONTEXT
        and first.shape.kind is ClaimKind.CONTEXT
        and not claim.shape.vram
    )
    return not harmless


def free_devices(claim: Claim, occupancy: Occupancy) -> list[Device]:
    """Return the devices that `claim` can have now, best first, at most as many as it needs."""
    shape, packing = claim.shape, occupancy.packing
    if shape.spec.kind is DeviceChoice.EXACT:
        candidates = [occupancy.devices[index] for index in shape.spec.indices]
        return [
            device
            for device in candidates
            if eligible(device, shape)
            and not is_kept_from(device, claim)
            and admits(device, shape, packing=packing)
        ]
    found: list[Device] = []
    for rank in occupancy.ranks(shape):
        if not _may_offer(rank, shape, packing=packing):
            break
        device = occupancy.devices[rank[2]]
        kept = device.earmark is not None and is_kept_from(device, claim)
        if not kept and admits(device, shape, packing=packing):
            found.append(device)
            if len(found) == shape.spec.count:
                break
    return found


def _may_offer(rank: Rank, shape: Shape, *, packing: bool) -> bool:
    """Return whether a device of that rank may have room; if not, none after it has."""
    if packing:
        return -rank[0] >= (shape.vram or 0)
    return rank[0] == 0 or shape.kind is ClaimKind.CONTEXT


def kept_from_contexts(device: Device) -> int:
    """Return the bytes that leases and residents have declared and that contexts cannot use.

    A context that lives out of a lease of its own asker uses what the lease has declared. So does a
    resident that is a context; out of no lease, it has a reservation among the contexts.
    """
    kept = 0
    for claim in device.claims.values():
        if claim.state is ClaimState.PROMISED:
            continue
        if not claim.shape.counted_by_contexts:
            kept += claim.charge(device.index)
        elif (lease := claim.covers.get(device.index)) is not None and lease.shape.vram:
            kept -= claim.shape.vram or 0
    return max(0, kept)


def declared(device: Device) -> int:
    """Return the bytes that may be in use by workers which have declared them.

    One that is still loading has not used all of its own yet. What is used meanwhile rather counts
    as other programs' than to be handed out twice.
    """
    return sum(
        claim.charge(device.index)
        for claim in device.claims.values()
        if not claim.shape.counted_by_contexts
        and claim.state not in (ClaimState.PROMISED, ClaimState.STARTING)
    )
