"""What the device table wants done. Each action says why.

Values like the inputs, and not frozen for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from .offload import OffloadStrategy

__all__ = ["DeviceAction", "Evict", "Grant", "Lock", "Reject", "Tell", "Unlock"]


@dataclass(slots=True)
class Grant:
    """The claim holds its devices from now on."""

    claim: int
    devices: tuple[int, ...]
    """Logical indices; in the caller's order if it named them, else ascending; empty: the CPU."""
    reason: str


@dataclass(slots=True)
class Reject:
    """The request could never be met; the claim is forgotten."""

    claim: int
    reason: str
    lost: bool = False
    """It could be met if no device had been lost."""


@dataclass(slots=True)
class Evict:
    """Make the resident give its devices back, then report `Evicted`."""

    claim: int
    strategy: OffloadStrategy
    cause: int | None
    """The request that needs the devices; None: they are no longer managed."""
    running: bool
    """It is starting or in a call and is preempted: what it does must run again elsewhere."""
    reason: str


@dataclass(slots=True)
class Tell:
    """Tell the holder that a device it has is lost. It keeps its claim until it gives it back."""

    claim: int
    reason: str


@dataclass(slots=True)
class Lock:
    """Keep other programs off these devices, then report `LocksTried` for all of them."""

    devices: tuple[int, ...]


@dataclass(slots=True)
class Unlock:
    """Let other programs have these devices again."""

    devices: tuple[int, ...]


DeviceAction = Grant | Reject | Evict | Tell | Lock | Unlock
