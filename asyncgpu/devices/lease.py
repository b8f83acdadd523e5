"""`Lease`: devices held for the length of a block, never taken away."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Lease"]


@dataclass(frozen=True, slots=True)
class Lease:
    """What ``async with rt.lease(...)`` gives."""

    id: int
    devices: tuple[str, ...]
    """``("cuda:0", "cuda:1")`` in the caller's order, or ``("cpu",)``."""
    indices: tuple[int, ...]
    """Their logical indices; empty on the CPU."""

    @property
    def device(self) -> str:
        """The first of them."""
        return self.devices[0]
