"""Single flight: of all who want one thing at the same time, one gets it for everybody.

The first to ask for a key leads, the others follow. A leader that fails or gives up hands the lead
to the follower that has waited longest, so that nobody fails for another one's sake.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from ..errors import InvalidTransition

__all__ = ["SingleFlight"]

W = TypeVar("W")


class SingleFlight(Generic[W]):
    """Who leads and who follows, by key."""

    def __init__(self) -> None:
        # The leader stands first; a dict keeps the order and forgets any of them at once.
        self._flights: dict[Hashable, dict[W, None]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: Hashable, who: W) -> bool:
        """Take part; return whether `who` leads."""
        flight = self._flights.setdefault(key, {})
        if who in flight:
            raise InvalidTransition("single flight", "joined", f"join {who!r}")
        flight[who] = None
        return len(flight) == 1

    def land(self, key: Hashable, who: W) -> list[W]:
        """The leader has it: forget the key and return the followers, first come first.

        Raises:
            InvalidTransition: `who` does not lead.
        """
        if not self.leads(key, who):
            raise InvalidTransition("single flight", "not leading", f"land {who!r}")
        _, *followers = self._flights.pop(key)
        return followers

    def leave(self, key: Hashable, who: W) -> W | None:
        """Take no part any more; return who leads now, if `who` did and somebody follows.

        Idempotent, also after the flight has landed.
        """
        flight = self._flights.get(key, {})
        if who not in flight:
            return None
        led = self.leads(key, who)
        del flight[who]
        if not flight:
            del self._flights[key]
            return None
        return next(iter(flight)) if led else None

    def leads(self, key: Hashable, who: W) -> bool:
        """Return whether `who` is the one that gets it."""
        return next(iter(self._flights.get(key, ())), None) == who
