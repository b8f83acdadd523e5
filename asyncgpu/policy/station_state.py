"""The life of a station, the place of one warm worker of a tool, as a table.

The usual way is absent, waiting, starting, idle, busy, idle, ... An eviction goes from idle through
evicting to absent, or to offloaded where the model can be moved. Whoever is offloaded waits and
starts again as the absent do. A worker that has served long enough is recycled: it starts anew on
the same device. A death leads from anywhere to absent.
"""

from __future__ import annotations

from enum import Enum

from ..errors import InvalidTransition

__all__ = ["TRANSITIONS", "StationState", "next_state"]


class StationState(Enum):
    """Where a station is in its life."""

    ABSENT = "absent"
    """No device, no process."""
    WAITING = "waiting"
    """In the queue for a device."""
    STARTING = "starting"
    """Holds its device; the process starts and the tool loads. Never a victim of eviction."""
    IDLE = "idle"
    """Ready; may be evicted."""
    BUSY = "busy"
    """A micro-batch runs. Never a victim of eviction."""
    EVICTING = "evicting"
    """Giving its device back; takes no work."""
    OFFLOADED = "offloaded"
    """The process lives with its model in host memory and holds no device."""


_S = StationState
TRANSITIONS: dict[tuple[StationState, str], StationState] = {
    (_S.ABSENT, "seek"): _S.WAITING,
    (_S.OFFLOADED, "seek"): _S.WAITING,
    (_S.WAITING, "withdrawn"): _S.ABSENT,
    (_S.WAITING, "kept"): _S.OFFLOADED,
    (_S.WAITING, "granted"): _S.STARTING,
    (_S.STARTING, "failed"): _S.ABSENT,
    (_S.STARTING, "ready"): _S.IDLE,
    (_S.IDLE, "feed"): _S.BUSY,
    (_S.BUSY, "answered"): _S.IDLE,
    (_S.IDLE, "evict"): _S.EVICTING,
    (_S.IDLE, "recycle"): _S.STARTING,
    (_S.OFFLOADED, "evict"): _S.EVICTING,
    (_S.EVICTING, "offloaded"): _S.OFFLOADED,
    (_S.EVICTING, "stopped"): _S.ABSENT,
    (_S.IDLE, "lost"): _S.ABSENT,
    (_S.BUSY, "lost"): _S.ABSENT,
    (_S.OFFLOADED, "lost"): _S.ABSENT,
}


def next_state(state: StationState, event: str) -> StationState:
    """Return the state after `event`.

    Raises:
        InvalidTransition: the table has no such transition.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise InvalidTransition("station", state.value, event) from None
