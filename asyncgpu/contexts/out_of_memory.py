"""Turns torch's out-of-memory error into ours where work of a context ends."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from .memory import ContextMemory

__all__ = ["in_our_words", "translating"]


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
        ours = in_our_words(memory, error)
        if ours is error:
            raise
        raise ours from error
    finally:
        memory.changed()
    if (over := memory.overdrawn()) is not None:
        raise over


def in_our_words(memory: ContextMemory, error: Exception) -> Exception:
    """Return our error for `error`; the same if it does not say that memory ran out.

    The frames of `error` that have ended let go of their variables: else whoever keeps the error,
    were it only to try again in the `except` block, would keep the tensors that filled the memory.
    """
    ours = memory.translated(error)
    if ours is not error:
        traceback.clear_frames(error.__traceback__)
    return ours
