"""Eviction: which idle residents must leave so that a request can be met. A plan, not a deed."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from .claims import Claim, ClaimState
from .device_inputs import ClaimKind, Shape
from .device_spec import DeviceChoice
from .occupancy import Device, Occupancy
from .placement import eligible, is_kept_from, would_admit

__all__ = ["EvictionPlan", "Victims", "plan_eviction"]


class Victims:
    """The residents that could leave, in the order in which they are taken.

    First those that are leaving already, unless their devices are promised to others; then the
    idle ones, least recently used first; then, for a request that may preempt, the running ones:
    lowest class first, then least recently used. What began after the request came is never
    preempted for it: two that take each other's devices by turns would both get nowhere.
    """

    def __init__(self, occupancy: Occupancy) -> None:
        self._occupancy = occupancy
        # Idle times only grow, so an insertion is nearly always at the end.
        self._idle: list[tuple[float, int, Claim]] = []
        self._leaving: dict[int, Claim] = {}

    @property
    def idle(self) -> list[Claim]:
        """The residents that may be evicted, least recently used first."""
        return [claim for _, _, claim in self._idle]

    @property
    def leaving(self) -> list[Claim]:
        """The victims under way with a device that more could be promised."""
        return list(self._leaving.values())

    def update(self, claim: Claim) -> None:
        """Enter or remove a resident that is no longer what it was; idempotent."""
        entry = (*claim.recency, claim)
        at = bisect_left(self._idle, entry)
        listed = at < len(self._idle) and self._idle[at][2] is claim
        if claim.evictable and claim.devices and not listed:
            insort(self._idle, entry)
        elif listed and not claim.evictable:
            del self._idle[at]
        if claim.state is ClaimState.EVICTING and any(map(self._on_offer, claim.devices)):
            self._leaving[claim.id] = claim
        else:
            self._leaving.pop(claim.id, None)

    def exist_for(self, shape: Shape) -> bool:
        """Return whether anybody at all could leave, or leaves already, for such a request."""
        return bool(self._idle or self._leaving or shape.preempts is not None)

    def candidates(self, claim: Claim) -> Iterable[Claim]:
        """Return who could leave for `claim`, in order. Its own group never does."""
        shape, devices = claim.shape, self._occupancy.devices
        idle: Iterable[Claim]
        if shape.spec.kind is DeviceChoice.EXACT:
            here = {c.id: c for i in shape.spec.indices for c in devices[i].claims.values()}
            leaving = [c for c in here.values() if c.state is ClaimState.EVICTING]
            idle = sorted((c for c in here.values() if c.evictable), key=_recency)
        else:
            leaving = list(self._leaving.values())
            idle = (claim for _, _, claim in self._idle)
        in_order = chain(leaving, idle, self._running(claim))
        if shape.group is None:
            return in_order
        return (
            c for c in in_order if c.state is ClaimState.EVICTING or c.shape.group != shape.group
        )

    def _running(self, claim: Claim) -> Iterator[Claim]:
        least = claim.shape.preempts
        if least is None:
            return
        running = {
            c.id: c
            for device in self._occupancy.devices.values()
            for c in device.claims.values()
            if c.state in (ClaimState.STARTING, ClaimState.BUSY)
            and c.shape.kind is ClaimKind.RESIDENT
            and not c.pinned
            and c.qos.rank >= least.rank
            and c.granted_after < claim.shape.preempts_until
        }
        yield from sorted(running.values(), key=lambda c: (-c.qos.rank, *c.recency))

    def _on_offer(self, index: int) -> bool:
        """Whether somebody more may be promised a device that is being vacated."""
        here = self._occupancy.devices[index].claims.values()
        return self._occupancy.packing or all(
            claim.state is not ClaimState.PROMISED or claim.shape.kind is ClaimKind.CONTEXT
            for claim in here
        )


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """What can be had for a request by waiting for nothing but evictions."""

    devices: list[Device]
    """Those free now first; fewer than asked: there is no plan, and these are what is in reach."""
    victims: list[Claim]
    """Who must be told to leave; empty without a plan."""


def plan_eviction(
    claim: Claim,
    free: list[Device],
    candidates: Iterable[Claim],
    occupancy: Occupancy,
) -> EvictionPlan:
    """Return the smallest cut into `candidates`, taken in order, that meets the whole request.

    Args:
        claim: the request.
        free: devices it could have without any eviction; not enough.
        candidates: who could leave.
        occupancy: where everybody stands.
    """
    shape, packing = claim.shape, occupancy.packing
    chosen = list(free)
    gone: dict[int, Claim] = {}
    for victim in candidates:
        fresh = [
            device
            for device in (occupancy.devices[index] for index in victim.devices)
            if device not in chosen and eligible(device, shape) and not is_kept_from(device, claim)
        ]
        if not fresh:
            continue
        gone[victim.id] = victim
        missing = shape.spec.count - len(chosen)
        chosen += [d for d in fresh if would_admit(d, shape, gone, packing=packing)][:missing]
        if len(chosen) == shape.spec.count:
            return EvictionPlan(chosen, _spare(claim, chosen, gone, packing=packing))
    return EvictionPlan(chosen, [])


def _spare(
    claim: Claim, chosen: list[Device], gone: dict[int, Claim], *, packing: bool
) -> list[Claim]:
    """Return the victims that are really needed, sparing the most recently used ones first."""
    needed = [victim for victim in gone.values() if victim.state is not ClaimState.EVICTING]
    for victim in reversed(needed.copy()):
        rest = {other.id for other in needed if other is not victim}
        if all(would_admit(device, claim.shape, rest, packing=packing) for device in chosen):
            needed.remove(victim)
    return needed


def _recency(claim: Claim) -> tuple[float, int]:
    return claim.recency
