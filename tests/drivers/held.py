"""Hold a virtual stream at a known place."""

from __future__ import annotations

import threading


def held(stream, *, interruptible=True):
    """Hold `stream`, and wait until it is held; return the latch that releases it."""
    begun, latch = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        latch.wait()

    stream.enqueue(hold, interrupt=latch.set if interruptible else None)
    assert begun.wait(10)
    return latch
