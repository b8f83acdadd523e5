"""What an input to the device table and its actions mean to those who watch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..policy.device_actions import DeviceAction, Evict, Grant, Reject
from ..policy.device_inputs import (
    BecameBusy,
    BecameIdle,
    Cancelled,
    Configured,
    DeviceInput,
    Evicted,
    Pinned,
    Released,
    Requested,
)
from .allocation import Allocation
from .status import DeviceChange

__all__ = ["describe"]


def describe(
    input: DeviceInput,
    actions: Sequence[DeviceAction],
    allocations: Mapping[int, Allocation],
    now: float,
) -> Iterator[DeviceChange]:
    """Yield the changes: what came in, then what came of it.

    Args:
        input: what the table was told.
        actions: what it answered.
        allocations: every claim that they may name, the ended ones included.
        now: seconds.
    """
    kind = _kind(input, actions)
    if isinstance(input, Configured):
        yield DeviceChange(now, kind, None, "", (), "")
    elif kind:
        yield _change(now, kind, allocations[input.claim], "")
    for action in actions:
        yield _change(now, _KINDS[type(action)], allocations[action.claim], action.reason)


def _kind(input: DeviceInput, actions: Sequence[DeviceAction]) -> str:
    match input:
        case Requested(claim):
            decided = any(action.claim == claim for action in actions)
            return "" if decided else "queued"
        case Pinned(_, pinned):
            return "pinned" if pinned else "unpinned"
        case _:
            return _KINDS[type(input)]


_KINDS: Mapping[type[DeviceInput | DeviceAction], str] = {
    Grant: "granted",
    Reject: "rejected",
    Evict: "evicting",
    Cancelled: "cancelled",
    Released: "released",
    BecameIdle: "idle",
    BecameBusy: "busy",
    Evicted: "evicted",
    Configured: "configured",
}


def _change(now: float, kind: str, allocation: Allocation, reason: str) -> DeviceChange:
    devices = allocation.devices if allocation.granted else ()
    return DeviceChange(now, kind, allocation.id, allocation.name, devices, reason)
