"""Turns torch's out-of-memory error into ours where work of a context ends."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

from .memory import ContextMemory

__all__ = ["in_our_words", "raise_from", "translating"]


@contextmanager
def translating(memory: ContextMemory) -> Iterator[None]:
    """Let the block raise our error instead of torch's, and tell `memory` that work has ended.

    Raises:
        OutOfDeviceMemory: the device was full.
        VRAMBudgetExceeded: the context's own budget was.
    """
    try:
        yield
    except Exception as error:
        raise_from(in_our_words(memory, error), error)
        raise
    finally:
        memory.changed()
    raise_from(memory.overdrawn(), None)


def in_our_words(memory: ContextMemory, error: Exception) -> Exception:
    """Return our error for `error`; the same if it does not say that memory ran out.

    The frames of `error` that have ended let go of their variables: else whoever keeps the error,
    were it only to try again in the `except` block, would keep the tensors that filled the memory.
    """
    ours = memory.translated(error)
    if ours is not error:
        _let_go(error.__traceback__)
    return ours


def raise_from(ours: BaseException | None, error: BaseException | None) -> None:
    """Raise `ours` because of `error`, unless there is none, or it is just that one.

    Here, so that no frame of its traceback refers to it: the cycle would keep what all of those
    frames know, the caller's tensors among them, until the next garbage collection.
    """
    try:
        if ours is not None and ours is not error:
            raise ours from error
    finally:
        del ours


def _let_go(trace: TracebackType | None) -> None:
    while trace is not None:
        if _has_ended(trace.tb_frame):
            with suppress(RuntimeError):
                trace.tb_frame.clear()
        trace = trace.tb_next


def _has_ended(frame: FrameType) -> bool:
    """Whether a frame has ended, and is not a coroutine's that waits.

    An error may come by several tasks, one of which has caught it and goes on. To clear its frame
    would end that task, before Python 3.13. A frame owns what it refers to only once it has ended.
    """
    return frame.f_code in gc.get_referents(frame)
