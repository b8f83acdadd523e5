"""How long the waiters will wait, guessed from how long others have kept their devices."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from math import inf

from .claims import Claim
from .hold_times import HoldTimes
from .occupancy import Device, Occupancy
from .placement import eligible

__all__ = ["estimate_waits"]


def estimate_waits(
    waiting: Iterable[Claim], occupancy: Occupancy, holds: HoldTimes, now: float
) -> Mapping[int, float | None]:
    """Return seconds to wait for each waiter, by the number of its claim; None: unknown.

    It plays the queue forward as if everybody kept devices as long as his kind usually does. That
    leaves out who comes later and goes before, room made by evictions of several, and how much
    memory everybody needs: a guess, for people.

    Args:
        waiting: everybody, the first to be served first.
        occupancy: where everybody stands.
        holds: what was measured.
        now: seconds.
    """
    free_at = {
        device.index: _free_at(device, holds, now, packing=occupancy.packing)
        for device in occupancy.devices.values()
    }
    soonest = [(at, index) for index, at in free_at.items() if at < inf]
    heapq.heapify(soonest)
    waits: dict[int, float | None] = {}
    for claim in waiting:
        chosen = _choose(claim, free_at, soonest, occupancy)
        start = max((free_at[index] for index in chosen), default=inf)
        waits[claim.id] = None if start == inf else start - now
        expected = holds.expected(claim.shape.kind)
        for index in chosen:
            free_at[index] = inf if expected is None else start + expected
            if free_at[index] < inf:
                heapq.heappush(soonest, (free_at[index], index))
    return waits


def _free_at(device: Device, holds: HoldTimes, now: float, *, packing: bool) -> float:
    """Return when somebody new can stand on `device`; inf: unknown."""
    if not device.managed or device.taken is not None:
        return inf
    left = [holds.remaining(claim, now) for claim in device.claims.values()]
    ends = [inf if seconds is None else now + seconds for seconds in left]
    return (min if packing else max)(ends, default=now)


def _choose(
    claim: Claim,
    free_at: Mapping[int, float],
    soonest: list[tuple[float, int]],
    occupancy: Occupancy,
) -> list[int]:
    """Return the devices that the claim will probably have; empty: unknown."""
    spec, among = claim.shape.spec, claim.shape.among
    if spec.indices:
        return list(spec.indices)
    if among is not None or claim.shape.vram:
        usable = [d.index for d in occupancy.devices.values() if eligible(d, claim.shape)]
        known = [index for index in usable if free_at[index] < inf]
        return _if_all(heapq.nsmallest(spec.count, known, key=lambda i: free_at[i]), spec.count)
    chosen: list[int] = []
    while soonest and len(chosen) < spec.count:
        at, index = heapq.heappop(soonest)
        # An entry that is not the device's latest has been used up.
        if at == free_at[index] and index not in chosen:
            chosen.append(index)
    return _if_all(chosen, spec.count)


def _if_all(chosen: list[int], count: int) -> list[int]:
    return chosen if len(chosen) == count else []
