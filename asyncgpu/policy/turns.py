"""Turns: at most so many at once, and who is next.

A session needs two turns, its context's and its device's. It is given both at one moment or none,
so nobody keeps one while waiting for the other, and no two can wait for each other here. Waiters
are served by QoS class and arrival, with ageing (`waiting_key`). One for whom some turn is taken
does not hold up those behind it that need others.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from ..errors import InvalidTransition
from .qos import QoSPolicy, waiting_key
from .waiting import WaitQueue

__all__ = ["Ticket", "TicketState", "TurnLimit", "TurnQueue", "can_have"]


class TurnQueue:
    """Gives out the turns of one device and of its contexts.

    Finding the next waiter costs one look at each kind of request that waits for what has become
    free: a few for each context, however many wait.

    Args:
        ageing_seconds: the wait that makes up for one QoS class.
    """

    def __init__(self, *, ageing_seconds: float) -> None:
        self._ageing_seconds = ageing_seconds
        self._next_number = 0
        # One line for each kind of request: what its first cannot have, the others cannot either.
        self._lines: dict[tuple[TurnLimit, ...], WaitQueue[Ticket]] = {}

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return sum(map(len, self._lines.values()))

    def request(self, needs: Iterable[TurnLimit], qos: QoSPolicy, now: float) -> Ticket:
        """Return a new ticket: held if all that it needs is free, else waiting.

        Args:
            needs: one turn of each.
            qos: the class of the context that asks.
            now: seconds.
        """
        order = (waiting_key(now, qos, self._ageing_seconds), self._next_number)
        ticket = Ticket(tuple(needs), order)
        self._next_number += 1
        if can_have(ticket.needs):
            _grant(ticket)
        else:
            self._line(ticket.needs).push(ticket)
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Forget a ticket that waits.

        Raises:
            InvalidTransition: it does not wait.
        """
        if ticket.state is not TicketState.WAITING:
            raise InvalidTransition("turn queue", ticket.state.name, "withdraw")
        self._discard(ticket)
        ticket.state = TicketState.WITHDRAWN

    def give_back(self, need: TurnLimit) -> Ticket | None:
        """Take back one turn; return the ticket that holds all of its turns now because of it.

        Raises:
            InvalidTransition: nobody holds one.
        """
        if not need.held:
            raise InvalidTransition("turn queue", "none held", "give back a turn")
        need.held -= 1
        heads = [line.head for line in need.lines.values() if line.head is not None]
        ready = [ticket for ticket in heads if can_have(ticket.needs)]
        if not ready:
            return None
        first = min(ready, key=lambda ticket: ticket.order)
        self._discard(first)
        _grant(first)
        return first

    def _line(self, needs: tuple[TurnLimit, ...]) -> WaitQueue[Ticket]:
        line = self._lines.get(needs)
        if line is None:
            line = self._lines[needs] = WaitQueue()
            for need in needs:
                need.lines[needs] = line
        return line

    def _discard(self, ticket: Ticket) -> None:
        line = self._lines[ticket.needs]
        line.discard(ticket)
        if not line:
            del self._lines[ticket.needs]
            for need in ticket.needs:
                del need.lines[ticket.needs]


class TurnLimit:
    """How many turns of one kind may be held at once.

    Args:
        limit: one or more; None: any number.

    Attributes:
        limit: that.
        held: how many are.
        lines: who waits for one, by everything that they need; kept by the queue.
    """

    __slots__ = ("held", "limit", "lines")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.held = 0
        self.lines: dict[tuple[TurnLimit, ...], WaitQueue[Ticket]] = {}

    @property
    def free(self) -> bool:
        """Whether one more may be held."""
        return self.limit is None or self.held < self.limit


class TicketState(Enum):
    """Where a request for turns stands."""

    WAITING = "waiting"
    HELD = "held"
    """It was given its turns; they are given back one by one."""
    WITHDRAWN = "withdrawn"


class Ticket:
    """A request for turns.

    Attributes:
        needs: one turn of each.
        order: its place among all waiters; the smaller is served first.
        state: changed by its queue only.
        queue: the line it waits in.
    """

    __slots__ = ("needs", "order", "queue", "state")

    def __init__(self, needs: tuple[TurnLimit, ...], order: tuple[float, int]) -> None:
        self.needs = needs
        self.order = order
        self.state = TicketState.WAITING
        self.queue: WaitQueue[Ticket] | None = None


def can_have(needs: Iterable[TurnLimit]) -> bool:
    """Whether one turn of each is free, so that a request would be held at once."""
    return all(need.free for need in needs)


def _grant(ticket: Ticket) -> None:
    ticket.state = TicketState.HELD
    for need in ticket.needs:
        need.held += 1
