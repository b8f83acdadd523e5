"""Crash loops: a tool whose workers die as they start is started less and less often.

::

    closed ──FAILURES starts in a row failed──▶ open ──the back-off is over──▶ on trial
      ▲                                          ▲                               │
      │                                          └──────the trial failed─────────┤
      └──────────────────────a start went well───────────────────────────────────┘

While it is open, nothing is started, and whoever asks is told when to come back. On trial, one
start is let through at a time. Each failed trial doubles the back-off, up to a limit.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum

__all__ = ["BACK_OFF", "FAILURES", "LONGEST", "CrashLoop", "CrashLoops", "LoopState"]

FAILURES = 3
"""So many starts in a row must fail before the next one has to wait: a single death may be chance,
or somebody's `kill`."""
BACK_OFF = 1.0
"""Seconds of the first back-off."""
LONGEST = 60.0
"""Seconds of the longest: so soon after its cause has been removed a tool is back at the latest."""


class LoopState(Enum):
    """Whether starts are allowed."""

    CLOSED = "closed"
    OPEN = "open"
    TRIAL = "trial"


class CrashLoop:
    """The starts of one tool's workers. Times are seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self.failures = 0
        """Starts that failed in a row."""
        self.why = ""
        """What the latest of them ended in."""
        self._until = 0.0

    def state(self, now: float) -> LoopState:
        """Return whether starts are allowed."""
        if self.failures < FAILURES:
            return LoopState.CLOSED
        return LoopState.OPEN if now < self._until else LoopState.TRIAL

    def failed(self, now: float) -> bool:
        """Count a start that ended in a death or a timeout; return whether to try again at once."""
        # Starts under way when it opened tell nothing that is not known.
        if self.state(now) is LoopState.OPEN:
            return False
        self.failures += 1
        again = self.failures < FAILURES
        back_off = 0.0 if again else BACK_OFF * 2.0 ** (self.failures - FAILURES)
        self._until = now + min(back_off, LONGEST)
        return again

    def may_start(self, wanted: int, under_way: int, now: float) -> int:
        """Return how many of `wanted` workers may be started beside those under way."""
        state = self.state(now)
        if state is LoopState.TRIAL:
            return min(wanted, max(0, 1 - under_way))
        return wanted if state is LoopState.CLOSED else 0

    def retry_after(self, now: float) -> float:
        """Return the seconds until the next start is allowed; 0.0: it is now."""
        return max(0.0, self._until - now)

    def forgotten(self, now: float) -> bool:
        """Return whether it is so long over that nobody need remember it."""
        return now > self._until + LONGEST


class CrashLoops:
    """The crash loops of a runtime; whoever starts well is not remembered."""

    def __init__(self) -> None:
        self._loops: dict[Hashable, CrashLoop] = {}

    def failed(self, tool: Hashable, now: float, why: str) -> bool:
        """Count a start of `tool` that ended in a death or a timeout.

        Args:
            tool: identifies it.
            now: seconds.
            why: what happened, for those who are refused later.

        Returns:
            Whether to try again at once.
        """
        self._loops = {key: loop for key, loop in self._loops.items() if not loop.forgotten(now)}
        loop = self._loops.setdefault(tool, CrashLoop())
        loop.why = why
        return loop.failed(now)

    def succeeded(self, tool: Hashable) -> None:
        """A start of `tool` went well: whatever it was, it is over."""
        self._loops.pop(tool, None)

    def may_start(self, tool: Hashable, wanted: int, under_way: int, now: float) -> int:
        """Return how many of `wanted` workers may be started beside those under way."""
        loop = self._loops.get(tool)
        return wanted if loop is None else loop.may_start(wanted, under_way, now)

    def find(self, tool: Hashable) -> CrashLoop | None:
        """Return the crash loop that `tool` is in, or may be about to get into."""
        return self._loops.get(tool)
