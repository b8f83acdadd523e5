"""`WarmUp`: work without items. It is done as soon as one worker of the crew is ready."""

from __future__ import annotations

from ..ports import Reply
from ..promise import Promise, new_promise, resolve
from .assignment import Assignment

__all__ = ["WarmUp"]


class WarmUp:
    """Asks for one station; its `ready` is None, or why there will be none."""

    priority = 0

    def __init__(self, claims: frozenset[int]) -> None:
        self.claims = claims
        self.ready: Promise[Exception | None] = new_promise()

    @property
    def finished(self) -> bool:
        return self.ready.done()

    @property
    def demand(self) -> int:
        return 0 if self.finished else 1

    def join(self, slot: int) -> None:
        resolve(self.ready, None)

    def leave(self, slot: int) -> None:
        """The slot was never used."""

    def take(self, slot: int) -> Assignment | None:
        return None

    def settle(self, assignment: Assignment, reply: Reply) -> None:
        """Nothing was assigned."""

    def fail(self, error: Exception) -> None:
        resolve(self.ready, error)

    def notice_loading(self, stations: int) -> None:
        """Nobody watches."""
