"""Prospects: questions about a request that nobody has made yet. Nothing is changed by asking."""

from __future__ import annotations

from collections.abc import Collection

from .device_inputs import ClaimKind, Shape
from .device_table import DeviceTable
from .feasibility import why_infeasible, without_waiting_for_oneself
from .placement import admits, eligible

__all__ = ["could_meet", "has_room"]


def has_room(shape: Shape, table: DeviceTable) -> bool:
    """Return whether a request for certain devices would be met at once, without any eviction."""
    devices = [table.occupancy.devices[index] for index in shape.spec.indices]
    return all(
        eligible(device, shape)
        and device.earmark is None
        and admits(device, shape, packing=table.packing)
        for device in devices
    )


def could_meet(
    shape: Shape,
    table: DeviceTable,
    held: Collection[int],
    staying: Collection[int],
    *,
    reuse: bool,
) -> bool:
    """Return whether a request could be met some day, although some claims never end.

    Args:
        shape: what is asked; where it is infeasible, this is not the reason to refuse it.
        table: who holds what.
        held: claims that the asker holds.
        staying: claims of residents that stay.
        reuse: the asker's own leases may be what meets it.
    """
    if why_infeasible(shape, table.occupancy) is not None:
        return True
    # Who pins its workers keeps them for longer than anybody can wait in here.
    stay = {
        claim
        for device in table.devices()
        for claim in device.claims.values()
        if claim.shape.kind is ClaimKind.RESIDENT and (claim.pinned or claim.id in staying)
    }
    own = sorted(stay.union(table.held_by(held)), key=lambda claim: claim.number)
    way = without_waiting_for_oneself(shape, table.occupancy, own)
    return way is None or (reuse and not isinstance(way, str))
