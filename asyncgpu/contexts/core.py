"""The parts of one execution context that its sessions, events and threads share."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from ..errors import ContextClosed, NoRuntime, RequestError
from ..home_loop import home_loop
from ..ports import Driver, DriverStream
from .activity import Activity, Work
from .carried import open_sessions
from .memory import ContextMemory
from .spans import Spans
from .step_hook import StepHook, hook_running_loop
from .turns import Turns
from .waiter import Marker, Waiter

__all__ = ["ContextCore"]

_log = logging.getLogger("asyncgpu.contexts")


class ContextCore:
    """What a context is made of.

    Attributes:
        name: the context's name.
        driver: the driver of its device.
        stream: its own stream.
        activity: what is under way in it.
        turns: the turns of its sessions and calls.
        memory: its share of its device's memory.
        waiter: its markers, and the waiting for them.
        loop: the runtime's.
    """

    def __init__(
        self,
        name: str,
        *,
        driver: Driver,
        stream: DriverStream,
        turns: Turns,
        memory: ContextMemory,
        spans: Spans,
    ) -> None:
        self.name = name
        self.driver = driver
        self.stream = stream
        self.activity = Activity(name, spans)
        self.turns = turns
        self.memory = memory
        self.waiter = Waiter(name, stream)
        self.loop = home_loop()
        self._hooks: set[StepHook] = set()
        self._pid = os.getpid()

    def hook(self) -> StepHook:
        """Return the hook of the running loop, put in now if it has none.

        Raises:
            RequestError: no loop runs in this thread, or it cannot be hooked.
        """
        hook = hook_running_loop()
        if hook not in self._hooks:
            # A context may outlive many loops.
            self._hooks = {each for each in self._hooks if each.loop.call(_nothing)} | {hook}
            hook.retain()
        return hook

    def can_hook(self) -> bool:
        """Whether the running loop is hooked, or could be now."""
        try:
            self.hook()
        except RequestError:
            return False
        return True

    def release_hooks(self) -> None:
        """Let go of the loops' hooks; the last context to do so takes them out."""
        hooks, self._hooks = self._hooks, set()
        for hook in hooks:
            hook.loop.call(hook.release)

    def is_around(self) -> bool:
        """Whether the current task is inside an open session of this context."""
        return any(session.home is self for session in open_sessions())

    def begin(self, what: str, *, category: str = "session") -> Work:
        """Begin work; it is part of older work if a session of this context is around it.

        Raises:
            ContextClosed: the context is closed, or closing and nothing of its own is around.
            NoRuntime: the context was opened before a fork.
        """
        self._check_process()
        return self.activity.begin(what, within=self.is_around(), category=category)

    def record(self) -> Marker:
        """Put a marker behind all the work of the stream.

        Raises:
            ContextClosed: the context is closed.
            DeviceLost: the device has had a fault.
        """
        self.check_open()
        return self.waiter.record()

    def check_open(self) -> None:
        """Raise `ContextClosed` if it is closed, `NoRuntime` if it was opened before a fork."""
        self._check_process()
        if self.activity.closed:
            raise ContextClosed(f"{self} is closed")

    def check_accepts(self) -> None:
        """Raise `ContextClosed` if it takes no new work here; see `begin`."""
        self.check_open()
        if self.activity.closing and not self.is_around():
            raise ContextClosed(f"{self} is closing")

    async def drain(self, marker: Marker, finish: Callable[[], None]) -> None:
        """Wait for `marker`, then call `finish`; if cancelled, let the waiter thread do both.

        Raises:
            ContextClosed: the context was abandoned meanwhile; `finish` was called.
            DeviceLost: the work before the marker has failed; `finish` was called.
        """
        try:
            await self.waiter.wait(marker)
            self.check_open()
        except Exception:
            finish()
            raise
        except BaseException:
            self.drain_later(marker, finish)
            raise
        finish()

    def drain_later(self, marker: Marker, finish: Callable[[], None]) -> None:
        """Call `finish`, in whatever thread, once `marker` is reached or has failed."""

        def reached(failure: Exception | None) -> None:
            if failure is not None:
                _log.error("%s: work failed after its caller was cancelled: %s", self, failure)
            finish()

        self.waiter.when_reached(marker, reached)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise NoRuntime(
                f"{self} was opened in process {self._pid}, before a fork; its stream and threads "
                "are not here"
            )

    def __str__(self) -> str:
        return f"context {self.name!r}"


def _nothing() -> None:
    """Ask a loop whether it is still there."""
