"""What an input to the device table and its actions mean to those who watch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from ..policy.device_actions import Evict, Grant, Reject, Tell
from ..policy.device_inputs import (
    BecameBusy,
    BecameIdle,
    Cancelled,
    Configured,
    DeviceInput,
    Evicted,
    LocksTried,
    Lost,
    Measured,
    Pinned,
    Released,
    Requested,
)
from .allocation import Allocation
from .status import DeviceChange

__all__ = ["Answer", "describe", "newly_taken"]

Answer = Grant | Reject | Evict | Tell
"""An action that concerns a claim."""


def describe(
    input: DeviceInput,
    actions: Sequence[Answer],
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
    match input:
        case Configured():
            yield DeviceChange(now, "configured", None, "", (), "")
        case Lost(device, reason):
            yield DeviceChange(now, "device lost", None, "", (f"cuda:{device}",), reason)
        case LocksTried() | Measured():
            pass
        case Requested(claim):
            if all(action.claim != claim for action in actions):
                yield _change(now, "queued", allocations[claim], "")
        case Pinned(claim, pinned):
            yield _change(now, "pinned" if pinned else "unpinned", allocations[claim], "")
        case _:
            yield _change(now, _KINDS[type(input)], allocations[input.claim], "")
    for action in actions:
        yield _change(now, _KINDS[type(action)], allocations[action.claim], action.reason)


def newly_taken(tried: LocksTried, known: Collection[int], now: float) -> Iterator[DeviceChange]:
    """Yield the changes for devices that other programs turn out to have.

    Args:
        tried: what came of trying to lock devices.
        known: devices of which that was known.
        now: seconds.
    """
    for device, by in tried.taken.items():
        if device not in known:
            yield DeviceChange(now, "taken", None, by, (f"cuda:{device}",), "another program")


_KINDS: Mapping[type[DeviceInput | Answer], str] = {
    Grant: "granted",
    Reject: "rejected",
    Evict: "evicting",
    Tell: "lost",
    Cancelled: "cancelled",
    Released: "released",
    BecameIdle: "idle",
    BecameBusy: "busy",
    Evicted: "evicted",
}


def _change(now: float, kind: str, allocation: Allocation, reason: str) -> DeviceChange:
    devices = allocation.devices if allocation.granted else ()
    return DeviceChange(now, kind, allocation.id, allocation.name, devices, reason)
