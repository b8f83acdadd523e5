"""`ContextUsage`: a context's memory, as a value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ContextUsage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextUsage:
    """A snapshot, in bytes.

    What is *used*, *cached* and the *peak* are fields that come with the budget, which is what
    counts allocations; until then there is nothing true to say about them.
    """

    max: int | None
    """The most it may use; None: no cap of its own."""
    base: int
    """What it can rely on."""
    reserved: int
    """What is set aside for it on the device."""
