"""The turns of one device, given out and taken back in any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from ..policy.qos import QoSPolicy
from ..policy.turns import Ticket, TicketState, TurnLimit, TurnQueue, can_have

__all__ = ["DeviceTurns", "Tell"]

Tell = Callable[[bool], bool]
"""How to tell one that waits: True, it has its turns; False, it gets none any more.

It must be quick. It returns False if there is nobody left to tell.
"""


class DeviceTurns:
    """Carries out a `TurnQueue` for the contexts of one device.

    Args:
        limit: sessions at once on the device, over all contexts; None: no limit.
        ageing_seconds: the wait that makes up for one QoS class.
        clock: seconds; the same in every thread and event loop.
    """

    def __init__(
        self,
        limit: int | None = None,
        *,
        ageing_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = TurnLimit(limit)
        self._clock = clock
        # Held for moments only: nobody is told anything under it.
        self._lock = threading.Lock()
        self._queue = TurnQueue(ageing_seconds=ageing_seconds)
        self._waiting: dict[Ticket, tuple[object, Tell]] = {}

    def waiting(self, owner: object) -> int:
        """How many of `owner` wait."""
        with self._lock:
            return sum(each is owner for each, _ in self._waiting.values())

    def take_now(self, needs: tuple[TurnLimit, ...], qos: QoSPolicy) -> bool:
        """Take one turn of each of `needs` if all are free."""
        with self._lock:
            if not can_have(needs):
                return False
            self._queue.request(needs, qos, self._clock())
            return True

    def request(
        self, owner: object, needs: tuple[TurnLimit, ...], qos: QoSPolicy, tell: Tell
    ) -> Ticket:
        """Return a ticket for one turn of each; unless it is held already, `tell` will say more."""
        with self._lock:
            ticket = self._queue.request(needs, qos, self._clock())
            if ticket.state is TicketState.WAITING:
                self._waiting[ticket] = owner, tell
        return ticket

    def end(self, ticket: Ticket) -> None:
        """Forget a ticket, whether it waits or holds all its turns or was dismissed."""
        with self._lock:
            if ticket.state is TicketState.WAITING:
                self._withdraw(ticket)
        if ticket.state is TicketState.HELD:
            self.give_back(ticket.needs)

    def give_back(self, needs: Iterable[TurnLimit]) -> None:
        """Take back one turn of each, and tell those who are next."""
        returned = list(needs)
        while returned:
            with self._lock:
                ticket = self._queue.give_back(returned.pop(0))
                if ticket is None:
                    continue
                _, tell = self._waiting.pop(ticket)
            if not tell(True):
                # Its loop is gone, and it with it: its turns go on to the next.
                returned += ticket.needs

    def dismiss(self, owner: object) -> None:
        """Tell everybody of `owner` who waits that there are no turns any more."""
        with self._lock:
            mine = [ticket for ticket, (each, _) in self._waiting.items() if each is owner]
            tells = [self._withdraw(ticket) for ticket in mine]
        for tell in tells:
            tell(False)

    def _withdraw(self, ticket: Ticket) -> Tell:
        self._queue.withdraw(ticket)
        _, tell = self._waiting.pop(ticket)
        return tell
