"""The turns of one context: `max_concurrent_sessions`, for tasks of any loop and for threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio

from ..errors import ContextClosed
from ..home_loop import home_loop
from ..policy.turns import TurnQueue
from ..promise import new_promise, resolve

__all__ = ["Turn", "Turns"]


class Turn:
    """One turn, shared by the sessions that are entered within each other."""

    __slots__ = ("_lock", "_ticket", "_turns", "_users")

    def __init__(self, turns: Turns, ticket: int) -> None:
        self._turns = turns
        self._ticket = ticket
        self._lock = threading.Lock()
        self._users = 1

    def share(self) -> bool:
        """Use it once more; return False if it has been given back already."""
        with self._lock:
            if self._users == 0:
                return False
            self._users += 1
            return True

    def drop(self) -> None:
        """Use it once less; the last user gives it back."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        self._turns.give_back(self._ticket)


class Turns:
    """Hands out turns in the order of arrival.

    Args:
        name: of the context, for errors.
        limit: turns held at once; None: no limit.
    """

    def __init__(self, name: str, limit: int | None) -> None:
        self._name = name
        self._limit = limit
        # Held for moments only: nobody is woken under it.
        self._lock = threading.Lock()
        self._queue = TurnQueue(limit)
        # How to tell each waiting ticket: True, it has its turn; False, the context has closed.
        # A call that returns False found nobody there to tell.
        self._tell: dict[int, Callable[[bool], bool]] = {}
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many wait in line."""
        with self._lock:
            return self._queue.waiting

    def take_now(self) -> Turn | None:
        """Take a turn if one is free."""
        with self._lock:
            return Turn(self, self._queue.request()) if self._queue.free else None

    async def take(self, timeout: float | None) -> Turn:
        """Wait for a turn.

        Raises:
            ContextClosed: the context closed meanwhile.
            TimeoutError: none came within `timeout` seconds.
        """
        if (turn := self.take_now()) is not None:
            return turn
        loop, promise = home_loop(), new_promise()
        ticket = self._wait_in_line(lambda granted: loop.call(resolve, promise, granted))
        with anyio.move_on_after(timeout):
            try:
                return self._turn(ticket, await promise)
            except BaseException:
                self.give_back(ticket)
                raise
        raise self._too_late(timeout)

    def take_blocking(self, timeout: float | None) -> Turn:
        """Block the calling thread, which runs no event loop, until it has a turn.

        Raises:
            ContextClosed: the context closed meanwhile.
            TimeoutError: none came within `timeout` seconds.
        """
        if (turn := self.take_now()) is not None:
            return turn
        told = threading.Event()
        answers: list[bool] = []

        def tell(granted: bool) -> bool:
            answers.append(granted)
            told.set()
            return True

        ticket = self._wait_in_line(tell)
        try:
            if told.wait(timeout):
                return self._turn(ticket, answers[0])
            raise self._too_late(timeout)
        except BaseException:
            self.give_back(ticket)
            raise

    def give_back(self, ticket: int) -> None:
        """Forget `ticket`, waiting or held, and tell the next in line."""
        ticket_now: int | None = ticket
        while ticket_now is not None:
            with self._lock:
                self._tell.pop(ticket_now, None)
                ticket_now = self._queue.drop(ticket_now)
                if ticket_now is None:
                    return
                tell = self._tell.pop(ticket_now, None)
            if tell is None or tell(True):
                # Without a `tell` it knows already that the context has closed, and gives up.
                return
            # Its loop is gone, and it with it: the turn goes on to the next one.

    def close(self) -> None:
        """End every wait with `ContextClosed`; turns that are held stay so."""
        with self._lock:
            self._closed = True
            waiting, self._tell = self._tell, {}
        for tell in waiting.values():
            tell(False)

    def _wait_in_line(self, tell: Callable[[bool], bool]) -> int:
        with self._lock:
            ticket = self._queue.request()
            granted, closed = self._queue.holds(ticket), self._closed
            if not (granted or closed):
                self._tell[ticket] = tell
        # Given back between the two looks: a turn has become free, or the context has closed.
        if granted or closed:
            tell(granted)
        return ticket

    def _turn(self, ticket: int, granted: bool) -> Turn:
        if not granted:
            raise ContextClosed(f"context {self._name!r} was closed while waiting for a turn")
        return Turn(self, ticket)

    def _too_late(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(
            f"context {self._name!r}: no turn within {timeout} s "
            f"({self._limit} sessions at once, all taken)"
        )
