"""Hands: how a waiter that cannot be served yet keeps devices from those behind it."""

from __future__ import annotations

from collections.abc import Iterable

from .agenda import Agenda
from .claims import Claim
from .occupancy import Device, Occupancy
from .placement import eligible, has_group, needed_beside

__all__ = ["Hands"]


class Hands:
    """Who has a hand on which device: the first in the queue of those that want it.

    Only heads of lines have hands, each on as many devices as it asked for at most.
    """

    def __init__(self, occupancy: Occupancy, agenda: Agenda) -> None:
        self._occupancy = occupancy
        self._agenda = agenda

    def lay(self, claim: Claim, in_reach: Iterable[Device]) -> None:
        """Put the hands of `claim` where they belong now.

        Args:
            claim: the head of its line; it cannot have all it needs.
            in_reach: what it could have, now or after evictions; fewer than it needs.
        """
        wanted = self._wanted(claim, in_reach)
        if wanted == claim.hands:
            return
        devices = self._occupancy.devices
        dropped = [index for index in claim.hands if index not in wanted]
        self.give_way(claim, wanted)
        claim.hands = wanted
        for index in wanted:
            devices[index].earmark = claim
        for index in dropped:
            devices[index].earmark = None
        self._agenda.touch(dropped)

    def let_go(self, claim: Claim) -> None:
        """Take the hands of `claim` off every device."""
        hands, claim.hands = claim.hands, ()
        for index in hands:
            self._occupancy.devices[index].earmark = None
        self._agenda.touch(hands)

    def pass_on(self, claim: Claim, successor: Claim) -> None:
        """Let `successor`, who asks for the same, keep what `claim` has kept from others."""
        successor.hands, claim.hands = claim.hands, ()
        for index in successor.hands:
            self._occupancy.devices[index].earmark = successor

    def give_way(self, claim: Claim, indices: Iterable[int]) -> None:
        """Let `claim` onto devices that others may have a hand on, or let it have its hand there.

        Those behind it let go. Whoever is before it, and let it pass, looks again at what is left.
        """
        for index in indices:
            device = self._occupancy.devices[index]
            first = device.earmark
            if first is None:
                continue
            if claim.order < first.order:
                first.hands = tuple(other for other in first.hands if other != index)
                device.earmark = None
                self._agenda.touch((index,))
            elif claim is not first:
                self._agenda.fill((index,))

    def _wanted(self, claim: Claim, in_reach: Iterable[Device]) -> tuple[int, ...]:
        """Return the devices that nobody behind `claim` may use.

        These are those in its reach and, to make up the number, the best of those that others may
        still enter: left to them, these would never have room for it. A device that nobody can
        enter needs no hand on it: when it opens, the first in the queue is asked first. Nor does
        one that other programs leave no room on: whoever fits beside them takes nothing from it.
        """
        shape = claim.shape
        wanted = [device.index for device in in_reach if _goes_before(claim, device)]
        for rank in self._occupancy.ranks(shape):
            if len(wanted) == shape.spec.count:
                break
            device = self._occupancy.devices[rank[2]]
            if (
                device.index not in wanted
                and _goes_before(claim, device)
                and eligible(device, shape)
                and needed_beside(device, shape) <= device.capacity
                and (shape.spec.indices or not has_group(device, shape))
            ):
                wanted.append(device.index)
        return tuple(wanted)


def _goes_before(claim: Claim, device: Device) -> bool:
    first = device.earmark
    return first is None or claim.order <= first.order
