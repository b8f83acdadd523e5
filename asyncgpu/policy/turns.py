"""Turns: at most so many at once, first come, first served.

A ticket is waiting, then held, then gone. Nobody overtakes: a request is granted at once only if
nobody waits, which is so whenever a place is free.
"""

from __future__ import annotations

from ..errors import InvalidTransition

__all__ = ["TurnQueue"]


class TurnQueue:
    """Who holds a turn and who waits for one.

    Args:
        limit: turns held at once; None: no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._next_ticket = 0
        self._held: set[int] = set()
        # A dict keeps the order of arrival and forgets any ticket in constant time.
        self._waiting: dict[int, None] = {}

    @property
    def held(self) -> int:
        """How many turns are taken."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return len(self._waiting)

    @property
    def free(self) -> bool:
        """Whether a request would be granted at once."""
        return self._limit is None or len(self._held) < self._limit

    def request(self) -> int:
        """Return a new ticket: held if a place is free, else waiting."""
        ticket = self._next_ticket
        self._next_ticket += 1
        if self.free:
            self._held.add(ticket)
        else:
            self._waiting[ticket] = None
        return ticket

    def holds(self, ticket: int) -> bool:
        """Whether `ticket` has its turn."""
        return ticket in self._held

    def drop(self, ticket: int) -> int | None:
        """Forget `ticket`, held or waiting; return the ticket that has its turn now because of it.

        Raises:
            InvalidTransition: no such ticket, or it was dropped before.
        """
        if ticket in self._waiting:
            del self._waiting[ticket]
            return None
        if ticket not in self._held:
            raise InvalidTransition("turn queue", "gone", f"drop ticket {ticket}")
        self._held.remove(ticket)
        return self._grant_first()

    def _grant_first(self) -> int | None:
        for ticket in self._waiting:
            del self._waiting[ticket]
            self._held.add(ticket)
            return ticket
        return None
