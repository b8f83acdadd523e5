"""Work that takes time and does nothing."""

from __future__ import annotations

import math
import threading

from ..errors import InvalidRequest
from .target import virtual_stream

__all__ = ["busy"]


def busy(target: object, seconds: float) -> None:
    """Put work that takes `seconds` on a virtual stream, behind its other work; return at once.

    Args:
        target: an `ExecutionContext`, or its `stream`.
        seconds: how long the stream is busy with it. It costs no processor time.

    Raises:
        InvalidRequest: `target` is not on a virtual device, or `seconds` is no duration.
        DeviceLost: the device has had a fault.
    """
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InvalidRequest(f"busy: {seconds} is not a number of seconds")
    interrupted = threading.Event()
    virtual_stream(target).enqueue(lambda: interrupted.wait(seconds), interrupt=interrupted.set)
