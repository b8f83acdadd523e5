"""Makes something in a worker thread that somebody has to give back, whatever becomes of the task.

A scope keeps anyio's cancellation from a task that waits for a thread, and nothing keeps asyncio's
own from it: ``task.cancel()``, `asyncio.timeout`, a failing `asyncio.TaskGroup`. The thread goes
on, and what it makes would be nobody's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread

__all__ = ["made_in_thread"]

T = TypeVar("T")


async def made_in_thread(make: Callable[[], T], undo: Callable[[T], object]) -> T:
    """Return what `make` returns in a worker thread; cancelled, `undo` gives it back.

    Args:
        make: may block.
        undo: called in the thread or in the task, whichever comes last.
    """
    made: list[T] = []
    # Whoever finds it empty comes last. Popping is atomic.
    first = [None]

    def in_thread() -> None:
        made.append(make())
        if not _pop(first):
            undo(made.pop())

    try:
        await anyio.to_thread.run_sync(in_thread)
    except BaseException:
        if not _pop(first) and made:
            undo(made.pop())
        raise
    return made.pop()


def _pop(items: list[None]) -> bool:
    try:
        items.pop()
    except IndexError:
        return False
    return True
