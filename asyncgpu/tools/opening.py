"""`Opening`: the slow way of a station to its worker, which can be given up at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

__all__ = ["Opening"]

# It clears away in a worker's grace and a second; a loop that is ending may never begin it.
_LIMIT = 30.0


class Opening:
    """One attempt, carried out in a task of the runtime; made before that task has begun."""

    def __init__(self, *, holds: bool = False) -> None:
        """Prepare it; `holds`: it has its devices already, and gives them back if it fails."""
        self._holds = holds
        self._scope: anyio.CancelScope | None = None
        self._over = anyio.Event()
        self.given_up = False
        """Whether it was told to end."""

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Carry it out inside the block."""
        try:
            with anyio.CancelScope() as self._scope:
                if self.given_up:
                    self._scope.cancel()
                yield
        finally:
            self._over.set()

    def give_up(self) -> None:
        """Have it end as soon as it can."""
        self.given_up = True
        if self._scope is not None:
            self._scope.cancel()

    async def end(self) -> None:
        """Give it up, and wait until nothing of it is left."""
        self.give_up()
        # One that has not begun and holds nothing has nothing to clear away.
        if self._holds or self._scope is not None:
            with anyio.move_on_after(_LIMIT):
                await self._over.wait()
