"""What is under way in one context, counted from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from ..errors import ContextClosed
from ..home_loop import home_loop
from ..policy.context_state import ContextInput, ContextMachine, ContextState
from ..promise import new_promise, resolve
from .spans import Spans

__all__ = ["Activity", "Work"]


class Work:
    """One thing under way: ended exactly once, by whoever finishes it, in any thread."""

    __slots__ = ("began", "category", "what")

    def __init__(self, what: str, category: str, began: float) -> None:
        self.what = what
        self.category = category
        self.began = began


class Activity:
    """Counts a context's work, drives its state, and tells when nothing is left.

    Attributes:
        closed: whether the context is closed; a plain attribute, because every step reads it.
        closing: whether new work is refused.
    """

    def __init__(self, name: str, spans: Spans) -> None:
        self.closed = False
        self.closing = False
        self._name = name
        self._spans = spans
        self._machine = ContextMachine(name)
        # Held for moments only: no callback runs and nothing waits under it.
        self._lock = threading.Lock()
        # A dict keeps the order in which work began, for `under_way`.
        self._work: dict[Work, None] = {}
        self._when_idle: list[Callable[[], object]] = []

    @property
    def state(self) -> ContextState:
        return self._machine.state

    def under_way(self) -> list[str]:
        """Say what runs, oldest first."""
        with self._lock:
            return [work.what for work in self._work]

    def begin(self, what: str, *, within: bool = False, category: str = "session") -> Work:
        """Begin a piece of work.

        Args:
            what: what to call it when somebody asks what still runs, and in the timeline.
            within: it is part of work that began before, so that closing does not refuse it.
            category: what kind of time the timeline calls it.

        Raises:
            ContextClosed: the context is closed, or closing.
        """
        work = Work(what, category, self._spans.begin())
        with self._lock:
            if self.closed or (self.closing and not within):
                raise ContextClosed(f"context {self._name!r} is closed")
            if not self._work:
                self._machine.handle(ContextInput.FIRST_WORK)
            self._work[work] = None
        return work

    def end(self, work: Work) -> None:
        """End a piece of work."""
        self._spans.end(work.what, work.began, work.category)
        with self._lock:
            del self._work[work]
            if self._work:
                return
            if not self.closed:
                self._machine.handle(ContextInput.LAST_DONE)
            callbacks, self._when_idle = self._when_idle, []
        for callback in callbacks:
            callback()

    def refuse(self) -> None:
        """Refuse new work from now on; what is under way goes on."""
        with self._lock:
            self.closing = True

    async def wait_idle(self) -> None:
        """Wait until nothing is under way."""
        loop = home_loop()
        while True:
            promise = new_promise()
            with self._lock:
                if not self._work:
                    return
                self._when_idle.append(partial(loop.call, resolve, promise, None))
            await promise

    def close(self) -> None:
        """Make it closed; nothing may be under way."""
        with self._lock:
            self._machine.handle(ContextInput.CLOSE)
            self.closing = self.closed = True

    def abandon(self) -> None:
        """Make it closed; what is under way ends when it ends, and is nobody's any more."""
        with self._lock:
            self._machine.handle(ContextInput.ABANDON if self._work else ContextInput.CLOSE)
            self.closing = self.closed = True
