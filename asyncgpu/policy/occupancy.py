"""Who stands on which device: holders, bytes, and the order in which open devices are offered."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping

from .claims import Claim, ClaimState
from .device_inputs import ClaimKind, Shape

__all__ = ["Device", "Occupancy", "Rank"]

Rank = tuple[int, int, int]
"""Sorts open devices; the last is the index. With packing: most free bytes, then fewest holders.
Without: fewest holders, of which only contexts can be; the second is 0."""


class Device:
    """One device and everything that stands on it or will."""

    __slots__ = (
        "capacity",
        "claims",
        "crowded",
        "earmark",
        "index",
        "locked",
        "lost",
        "managed",
        "others",
        "peak",
        "present",
        "rank",
        "taken",
    )

    def __init__(self, index: int, capacity: int) -> None:
        self.index = index
        self.capacity = capacity
        self.managed = False
        """It takes new claims."""
        self.lost: str | None = None
        """Why it is gone for good."""
        self.locked = True
        """No other program can take it; where nobody locks devices, always."""
        self.taken: str | None = None
        """Which other program had it when this one last tried to lock it."""
        self.others = 0
        """Bytes that other programs use and this one planned with."""
        self.claims: dict[int, Claim] = {}
        """By id: those granted, and those promised."""
        self.present = 0
        """Bytes reserved by those that are here, victims that have not left included."""
        self.peak = 0
        """The most bytes that will be reserved at once, in whatever order the victims leave."""
        self.earmark: Claim | None = None
        """The first waiter that keeps later ones from it."""
        self.crowded = False
        """Packing was switched off while several stood here; they may stay."""
        self.rank: Rank | None = None
        """Its place among the open devices; None: nobody new can be placed here now."""

    @property
    def free(self) -> int:
        """Bytes that nobody has now or will have when a promise to him is kept."""
        return self.capacity - self.peak

    @property
    def spare(self) -> int:
        """Of these, the bytes that other programs leave."""
        return max(0, self.capacity - self.peak - self.others)


class Occupancy:
    """All devices. Its methods keep bytes and ranks right; deciding is done elsewhere.

    Open devices are kept sorted, so that a choice looks at few of them: with packing, by most free
    bytes, then fewest holders, then index; without, by index, the empty ones first, then those
    that only contexts stand on. Placing and lifting cost a bisection of that list each.
    """

    def __init__(self, capacities: Mapping[int, int], *, locks: bool = False) -> None:
        """Know the devices; none is managed yet.

        Args:
            capacities: bytes of each, by logical index.
            locks: a device is locked before anybody is placed on it.
        """
        self.devices = {index: Device(index, capacities[index]) for index in sorted(capacities)}
        self.locks = locks
        self.vacant: set[int] = set()
        """Locked devices that nobody stands on; if `locks`."""
        for device in self.devices.values():
            device.locked = not locks
        self.taken: set[int] = set()
        """Devices that other programs had when this one last tried to lock them."""
        self.squeezed: set[int] = set()
        """Devices of which other programs use what this one planned with."""
        self.packing = False
        self.open: list[Rank] = []
        """The devices that somebody could be placed on now, best first: (..., ..., index)."""
        self.chosen: frozenset[int] = frozenset()
        """The devices to manage, lost ones included."""
        self._capacities: list[int] = []

    @property
    def managed(self) -> tuple[int, ...]:
        """Indices of the devices that take new claims."""
        return tuple(device.index for device in self.devices.values() if device.managed)

    def manages(self, indices: Iterable[int]) -> bool:
        """Return whether all these devices take new claims."""
        return all(self.devices[index].managed for index in indices)

    def configure(self, managed: Iterable[int], *, packing: bool) -> None:
        """Change what is managed and how; whoever stands anywhere stays."""
        self.chosen = frozenset(managed)
        self.packing = packing
        usable = [self.devices[i] for i in self.chosen if self.devices[i].lost is None]
        self._capacities = sorted(device.capacity for device in usable)
        for device in self.devices.values():
            device.managed = device in usable
            device.crowded = device.crowded or (not packing and len(device.claims) > 1)
            self.refresh(device)

    def lose(self, device: Device, reason: str) -> None:
        """Offer `device` to nobody any more; whoever stands there stays."""
        device.lost = reason
        self.configure(self.chosen, packing=self.packing)

    def count_managed(self, least: int) -> int:
        """Return how many managed devices have at least that many bytes in all."""
        return len(self._capacities) - bisect_left(self._capacities, least)

    def place(self, claim: Claim, indices: tuple[int, ...]) -> None:
        """Put `claim` on devices it does not stand on."""
        claim.devices = indices
        for index in indices:
            device = self.devices[index]
            device.claims[claim.id] = claim
            self.vacant.discard(index)
            self.refresh(device)

    def lift(self, claim: Claim) -> None:
        """Take `claim` off its devices."""
        indices, claim.devices = claim.devices, ()
        for index in indices:
            device = self.devices[index]
            del device.claims[claim.id]
            if device.claims:
                self._uncover(claim, device)
            else:
                device.crowded = False
                self._vacated(device)
            self.refresh(device)

    def replace(self, old: Claim, new: Claim) -> None:
        """Put `new` where `old` stood: the device never opens.

        Without packing both exclude others; with it, both have reserved the same.
        """
        new.devices, old.devices = old.devices, ()
        device = self.devices[new.devices[0]]
        del device.claims[old.id]
        device.claims[new.id] = new
        if not self.packing:
            device.crowded = False
            device.present = device.peak = new.shape.vram or 0

    def lock(self, device: Device) -> None:
        """No other program can take `device` any more."""
        device.taken = None
        self.taken.discard(device.index)
        device.locked = True
        if not device.claims:
            self._vacated(device)
        self.refresh(device)

    def take(self, device: Device, by: str) -> None:
        """Another program has `device`."""
        device.taken = by
        self.taken.add(device.index)
        self.refresh(device)

    def squeeze(self, device: Device, others: int) -> None:
        """Other programs use `others` bytes of `device` that this one planned with."""
        device.others = others
        (self.squeezed.add if others else self.squeezed.discard)(device.index)
        self.refresh(device)

    def changed(self, claim: Claim) -> None:
        """Recount the devices of a claim that changed its state."""
        for index in claim.devices:
            self.refresh(self.devices[index])

    def ranks(self, shape: Shape) -> Iterable[Rank]:
        """Return the open devices that `shape` asks about, best first."""
        named = shape.spec.indices or shape.among
        if named is None:
            return self.open
        ranks = (self.devices[i].rank for i in named if i in self.devices)
        return sorted(rank for rank in ranks if rank is not None)

    def refresh(self, device: Device) -> None:
        """Recount the bytes of `device` and put it in its place among the open ones."""
        present = 0
        exclusive = promised = False
        claims = device.claims
        for claim in claims.values():
            if claim.shape.kind is not ClaimKind.CONTEXT:
                exclusive = True
            if claim.state is ClaimState.PROMISED:
                promised = True
            elif claim.shape.vram:
                present += claim.charge(device.index)
        device.present = present
        device.peak = max(present, _peak(device)) if promised else present
        rank: Rank | None
        if not device.managed or device.taken is not None or (exclusive and not self.packing):
            rank = None
        elif self.packing:
            rank = (-device.spare, len(claims), device.index)
        else:
            rank = (len(claims), 0, device.index)
        if rank != device.rank:
            if device.rank is not None:
                del self.open[bisect_left(self.open, device.rank)]
            if rank is not None:
                insort(self.open, rank)
            device.rank = rank

    def _vacated(self, device: Device) -> None:
        if self.locks:
            self.vacant.add(device.index)

    @staticmethod
    def _uncover(lease: Claim, device: Device) -> None:
        """Whoever lived in `lease` lives on in the lease around that, or on its own."""
        index = device.index
        for claim in device.claims.values():
            if claim.covers.get(index) is lease:
                others = {i: cover for i, cover in claim.covers.items() if i != index}
                outer = {index: lease.covers[index]} if index in lease.covers else {}
                claim.covers = others | outer


def _peak(device: Device) -> int:
    """Return the most bytes that are reserved once some of the promises here are kept.

    A promise is kept when the victims it waits for have left; by then, others that were told to
    leave later for somebody else may still be here. Whoever is promised a device waits for all the
    victims on it at that time, so one who was promised it earlier waits for no more of them.
    """
    index, here = device.index, device.claims.values()
    promised = [claim for claim in here if claim.state is ClaimState.PROMISED]
    leaving = [claim for claim in here if claim.state is ClaimState.EVICTING]
    staying = sum(claim.charge(index) for claim in here) - sum(
        claim.charge(index) for claim in (*promised, *leaving)
    )
    loads = []
    for last in promised:
        left = {victim.id for victim in leaving if victim.id in last.awaiting}
        kept = [p for p in promised if {v.id for v in leaving if v.id in p.awaiting} <= left]
        late = [victim for victim in leaving if victim.id not in left]
        loads.append(staying + sum(claim.charge(index) for claim in (*kept, *late)))
    return max(loads)
