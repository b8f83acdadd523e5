"""Handing over: who takes the place of one who leaves, where that is plain to see.

It comes to the same as opening the device and looking at everybody who could use it. On a full
machine it is what nearly always happens, and it costs a fraction.
"""

from __future__ import annotations

from .claims import Claim, ClaimState
from .device_inputs import ClaimKind, Shape
from .eviction import Victims
from .occupancy import Device, Occupancy
from .placement import needed_beside
from .waiting import Line, WaitingRoom

__all__ = ["HandOver"]


class HandOver:
    """Finds the one who takes a place over."""

    def __init__(self, occupancy: Occupancy, room: WaitingRoom[Claim], victims: Victims) -> None:
        self._occupancy = occupancy
        self._room = room
        self._victims = victims

    def line_for(self, ended: Claim) -> Line[Claim] | None:
        """Return the line whose head takes over what `ended` leaves; None: that is not plain."""
        if len(ended.devices) != 1:
            return None
        device = self._occupancy.devices[ended.devices[0]]
        if not device.managed:
            return None
        if self._occupancy.packing:
            return self._next_alike(ended, device)
        # Nobody else can be placed beside the one who ended, and nobody has come before that.
        if device.rank is not None or device.earmark is not None or len(device.claims) != 1:
            return None
        return self._first_for(device)

    def _first_for(self, device: Device) -> Line[Claim] | None:
        """Return the line of the first in the queue, if he wants `device` alone and for himself."""
        found: Line[Claim] | None = None
        first: Claim | None = None
        for line in self._room.interested(device.index):
            head = line.waiting.head
            if head is None or line.promised.head is not None:
                return None
            if first is None or head.order < first.order:
                found, first = line, head
        if found is None or first is None or first.hands:
            return None
        shape = found.shape
        if shape.spec.count != 1 or shape.kind is ClaimKind.CONTEXT:
            return None
        return found if needed_beside(device, shape) <= device.capacity else None

    def _next_alike(self, ended: Claim, device: Device) -> Line[Claim] | None:
        """Return the only line there is, if it asks for any one place just like that of `ended`.

        Then all bytes and ranks stay as they are, and so do the hands: the next in line keeps the
        devices from others that this one has kept.
        """
        line = self._room.sole
        if line is None or line.promised.head is not None or not _is_plain(line.shape):
            return None
        if ended.shape != line.shape or ended.covers or ended.nested_in:
            return None
        if self._victims.exist_for(line.shape) or device.peak + device.others > device.capacity:
            return None
        if device.earmark is not None and device.earmark is not line.waiting.head:
            return None
        alone = all(
            claim.state is not ClaimState.PROMISED and not claim.nested_in
            for claim in device.claims.values()
        )
        return line if alone else None


def _is_plain(shape: Shape) -> bool:
    """Whether whoever asks for it can stand beside anybody, where packing is on."""
    return (
        shape.vram is not None
        and shape.spec.count == 1
        and not shape.spec.indices
        and shape.among is None
        and shape.group is None
        and shape.kind is not ClaimKind.CONTEXT
    )
