"""The running event loop's clock, as a function that anybody may keep and call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import anyio

__all__ = ["clock_for_threads", "loop_clock"]


def loop_clock() -> Callable[[], float]:
    """Return the clock of the running loop, without the detour of asking which loop that is."""
    loop = asyncio._get_running_loop()
    return anyio.current_time if loop is None else loop.time


def clock_for_threads() -> Callable[[], float]:
    """Return the running loop's clock for other threads, in which trio's cannot be asked."""
    if asyncio._get_running_loop() is not None:
        return time.monotonic
    zero = anyio.current_time() - time.monotonic()
    return lambda: zero + time.monotonic()
