"""`ContextUsage`: a context's memory, as a value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ContextUsage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextUsage:
    """A snapshot, in bytes. Its budget is charged for what is used and what is cached."""

    used: int
    """What its live allocations take."""
    cached: int
    """What torch keeps for it beyond that: free parts of segments, ready for its next tensors."""
    peak: int
    """The most it was ever charged for at once."""
    max: int | None
    """The most it may use; None: no cap of its own."""
    base: int
    """What it can rely on."""
    reserved: int
    """What is set aside for it on the device, by its QoS class and by `reserve`."""
