"""`Mailbox`: results on their way from a job's callbacks to the task that iterates over them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ..promise import Promise, new_promise, resolve
from .plan_work import ItemResult

__all__ = ["InputOrder", "Mailbox"]


class Mailbox:
    """An unbounded queue with one reader; it holds no more than the job's own results."""

    def __init__(self) -> None:
        self._results: deque[ItemResult] = deque()
        self._closed = False
        self._wake: Promise[None] | None = None

    def put(self, results: Iterable[ItemResult]) -> None:
        """Add results and wake the reader."""
        self._results.extend(results)
        self._wake_reader()

    def close(self) -> None:
        """Let the reader end once it has read everything."""
        self._closed = True
        self._wake_reader()

    async def get(self) -> ItemResult | None:
        """Return the next result, or None when the box is closed and empty."""
        while not self._results:
            if self._closed:
                return None
            self._wake = new_promise()
            await self._wake
        return self._results.popleft()

    def _wake_reader(self) -> None:
        if self._wake is not None:
            resolve(self._wake, None)


class InputOrder:
    """Holds back results that came early."""

    def __init__(self) -> None:
        self._early: dict[int, ItemResult] = {}
        self._expected = 0

    def put(self, result: ItemResult) -> list[ItemResult]:
        """Return what may be handed out now that `result` is here."""
        self._early[result.index] = result
        ready = []
        while self._expected in self._early:
            ready.append(self._early.pop(self._expected))
            self._expected += 1
        return ready
