"""Longest processing time first: who gets which item, when everything is known beforehand.

The costliest item comes first, and goes to the slot that would *finish* it earliest; the slot's
load, the slot's speed and the item's own cost all count. `BatchPlan` follows the same rule step by
step while a run goes on; here it stands alone, to predict a makespan or to split work once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from heapq import heapreplace
from math import isfinite

from ..errors import InvalidRequest
from .costs import are_uniform, read_costs

__all__ = ["lower_bound", "lpt_schedule", "makespan"]


def lpt_schedule(costs: Sequence[float], speeds: Sequence[float]) -> list[list[int]]:
    """Return the indices of the items for each slot, costliest first.

    Equal costs keep the caller's order. Slots that would finish an item at the same time are told
    apart by their load, the lower first, then by their number. Items of cost zero take no time
    anywhere and are dealt out evenly.

    On m identical slots the makespan is at most (4/3 - 1/(3m)) times the optimum (R. L. Graham,
    "Bounds on multiprocessing timing anomalies", SIAM Journal on Applied Mathematics 17, 1969).
    With different speeds that bound does not carry over.

    The time is O(n log n) for identical slots; n items on slots of d different speeds take
    O(n (d + log n)).

    Args:
        costs: the work of each item, in any unit.
        speeds: the work that each slot does in a second.

    Raises:
        InvalidRequest: a cost is not finite and at least 0, a speed is not finite and above 0, or
            there is no slot.
    """
    work = read_costs(costs)
    rates = _read_speeds(speeds)
    slots = len(rates)
    identical = are_uniform(rates)
    if identical and are_uniform(work):
        return [list(range(first, len(work), slots)) for first in range(slots)]
    order = sorted(range(len(work)), key=work.__getitem__, reverse=True)
    weighty = bisect_left(order, 0.0, key=lambda item: -work[item])
    place = _place_on_identical if identical else _place_by_finish
    shards = place(order[:weighty], work, rates)
    for slot, shard in enumerate(shards):
        shard.extend(order[weighty + slot :: slots])
    return shards


def makespan(
    schedule: Sequence[Sequence[int]], costs: Sequence[float], speeds: Sequence[float]
) -> float:
    """Return when the last slot of a schedule ends, in seconds from the start.

    Args:
        schedule: the indices of the items for each slot, as from `lpt_schedule`.
        costs: the work of each item.
        speeds: the work that each slot does in a second.

    Raises:
        InvalidRequest: as `lpt_schedule`, or the schedule has another number of slots.
    """
    work = read_costs(costs)
    rates = _read_speeds(speeds)
    if len(schedule) != len(rates):
        raise InvalidRequest(f"{len(schedule)} shards for {len(rates)} slots")
    return max(
        sum(map(work.__getitem__, shard)) / rate
        for shard, rate in zip(schedule, rates, strict=True)
    )


def lower_bound(costs: Sequence[float], slots: int) -> float:
    """Return the makespan, in units of cost, that no schedule on identical slots can beat.

    It is the larger of the mean load and the costliest item. The optimum may lie above it.

    Raises:
        InvalidRequest: a cost is not finite and at least 0, or there is no slot.
    """
    work = read_costs(costs)
    if slots < 1:
        raise InvalidRequest(f"{slots} slots can do no work")
    return max(sum(work) / slots, max(work, default=0.0))


def _place_on_identical(
    order: Sequence[int], work: Sequence[float], speeds: Sequence[float]
) -> list[list[int]]:
    """The slot that finishes an item first is the least loaded one: a heap has it on top."""
    shards: list[list[int]] = [[] for _ in speeds]
    heap = [(0.0, slot) for slot in range(len(speeds))]
    for item in order:
        load, slot = heap[0]
        shards[slot].append(item)
        heapreplace(heap, (load + work[item], slot))
    return shards


def _place_by_finish(
    order: Sequence[int], work: Sequence[float], speeds: Sequence[float]
) -> list[list[int]]:
    """Among slots of one speed only the least loaded can win: one heap for each speed."""
    shards: list[list[int]] = [[] for _ in speeds]
    groups = [
        (speed, [(0.0, slot) for slot, other in enumerate(speeds) if other == speed])
        for speed in dict.fromkeys(speeds)
    ]
    for item in order:
        cost = work[item]
        speed, heap = min(
            groups, key=lambda group: (group[1][0][0] + cost / group[0], *group[1][0])
        )
        load, slot = heap[0]
        shards[slot].append(item)
        heapreplace(heap, (load + cost / speed, slot))
    return shards


def _read_speeds(speeds: Sequence[float]) -> list[float]:
    if not speeds:
        raise InvalidRequest("a schedule needs at least one slot")
    for slot, speed in enumerate(speeds):
        if isinstance(speed, bool | str) or not (isfinite(speed) and speed > 0):
            raise InvalidRequest(f"speed of slot {slot}: {speed!r} is not finite and above 0")
    return [float(speed) for speed in speeds]
