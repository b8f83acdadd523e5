"""Makes a thread-local "current stream" follow the task, step by step.

torch's current stream belongs to the thread, and an event loop interleaves tasks in one thread, so
a stream that is set on entering a session leaks into every other task at the first ``await``. The
session therefore lives in a ContextVar and is applied only while a step of a task that carries it
runs: save, set, run, restore. There is one hook per loop, put in by the first session on it and
taken out when the last context that used it closes:

* asyncio and uvloop: `step_hook_asyncio`, by overriding ``call_soon`` on the loop instance;
* trio: `step_hook_trio`, by an instrument.

Entering a session yields once, so that the first step inside it is already a hooked one; nothing is
ever left applied at the end of the step in which the session was entered.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Protocol

from .. import ambient
from ..errors import RequestError
from ..home_loop import HomeLoop
from .step_hook_asyncio import asyncio_hook
from .step_stack import StepStack
from .task_guard import TaskGuard

__all__ = ["StepHook", "current_stack", "hook_running_loop"]


class StepHook(Protocol):
    """The hook of one event loop."""

    @property
    def loop(self) -> HomeLoop: ...
    @property
    def stack(self) -> StepStack:
        """What is applied to the loop's thread."""
        ...

    def retain(self) -> None:
        """Keep it in the loop until a matching `release`."""
        ...

    def release(self) -> None:
        """End one `retain`; the last one takes the hook out. In the loop only."""
        ...

    def task_name(self) -> str:
        """Return the name of the current task, for messages."""
        ...

    def guard(self) -> TaskGuard:
        """Return a guard around the body of the current task."""
        ...

    async def end_step(self) -> None:
        """End the current step of the current task and go on in the next."""
        ...

    def watch(self) -> None:
        """A sync session was opened in this step: see to it that no other step runs on it."""
        ...


def hook_running_loop() -> StepHook:
    """Return the hook of the loop that runs in this thread, put in now if it has none.

    Raises:
        RequestError: no loop runs here, or it cannot be hooked.
    """
    hook = _running_hook(install=True)
    if hook is None:
        raise RequestError("no event loop runs in this thread: use `with`, not `async with`")
    return hook


def current_stack() -> StepStack:
    """Return what is applied to this thread: the hooked loop's, else the thread's own."""
    hook = _running_hook(install=False)
    return _thread.stack if hook is None else hook.stack


def _running_hook(*, install: bool) -> StepHook | None:
    loop = ambient.running_loop()
    if loop is None:
        return None
    if isinstance(loop, asyncio.AbstractEventLoop):
        return asyncio_hook(loop, install=install)
    # trio is optional; its hook is a subclass of trio's own class.
    from .step_hook_trio import trio_hook

    return trio_hook(install=install)


class _ThreadState(threading.local):
    def __init__(self) -> None:
        self.stack = StepStack()


# For threads without a loop of their own: worker threads, and sync programs.
_thread = _ThreadState()
