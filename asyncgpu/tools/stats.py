"""`PoolStats`: what a pool's workers did so far, as a frozen snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .answers import CacheStats
from .station import Station

__all__ = ["PoolStats", "SlotStats", "slot_stats"]


@dataclass(frozen=True, slots=True)
class SlotStats:
    """One place for a worker of one tool."""

    tool: str
    slot: int
    state: str
    """As `policy.station_state.StationState` names it: ``"idle"``, ``"busy"``, ..."""
    device: str
    """``"cuda:0"``, ``"cpu"``, or ``"-"`` while it holds none."""
    pid: int | None
    items: int
    """Items answered."""
    busy: float
    """Seconds between sending a micro-batch and its reply, summed."""
    loads: int
    """Times the tool was loaded here."""
    steals: int
    """Micro-batches taken from another slot's queue."""
    retries: int
    """Micro-batches run again after a failure or a death."""


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A whole pool."""

    slots: tuple[SlotStats, ...]
    items: int
    """Items answered by workers."""
    merged: int
    """Items that were equal to another of their run and not computed again."""
    waiting: int
    """Items queued now."""
    makespan: float | None
    """Seconds the latest finished run took from its first dispatch to its last answer."""
    lower_bound: float | None
    """What no schedule could have beaten, by the seconds measured in the workers:
    max(sum / slots, longest micro-batch)."""
    cache: CacheStats | None = None
    """What the pool's `ResultCache` did, for other pools too; None: it has none."""


def slot_stats(tool: str, stations: Iterable[Station]) -> list[SlotStats]:
    """Return a snapshot of each station."""
    return [
        SlotStats(
            tool=tool,
            slot=station.slot,
            state=station.state.value,
            device=station.place,
            pid=station.pid,
            items=station.items,
            busy=station.busy_seconds,
            loads=station.loads,
            steals=station.steals,
            retries=station.retries,
        )
        for station in stations
    ]
