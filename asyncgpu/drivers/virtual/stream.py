"""A virtual stream: an in-order queue of Python callables, served by a thread of its own.

The thread is started by the first piece of work and ends when the stream is closed, or idle for a
moment: a stream that nobody gives work costs no thread, and recording an event on an idle stream
costs none either, because such an event is reached at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ...errors import DeviceLost, InvalidRequest
from ...ports import DriverEvent
from .event import EventOwner, VirtualEvent

__all__ = ["StreamOwner", "VirtualStream", "Work"]

# Long enough that a burst of work is served by one thread, short enough that an idle program has
# none left.
_LINGER_SECONDS = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """One callable on a stream, and how to make it return early."""

    run: Callable[[], object]
    interrupt: Callable[[], object] | None


class StreamOwner(EventOwner, Protocol):
    """The device, as a stream sees it."""

    @property
    def index(self) -> int: ...

    def perform(self, work: Work) -> None:
        """Run `work`; whatever it raises is a fault of the device."""
        ...


class VirtualStream:
    """A `DriverStream` whose work is enqueued as Python callables.

    Attributes:
        id: counts from 1 within its device; never used again.
        device: logical index of its device.
        priority: -2, -1 or 0, lower is more urgent. It orders nothing here: virtual streams do
            not compete for compute units.
        closed: whether `close` was called.
    """

    def __init__(self, owner: StreamOwner, *, id: int, priority: int) -> None:
        self.id = id
        self.device = owner.index
        self.priority = priority
        self.closed = False
        self._owner = owner
        # Guards everything below; held for moments only, never while work runs.
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[Work | VirtualEvent] = deque()
        self._current: Work | VirtualEvent | None = None
        self._serving = False
        self._thread: threading.Thread | None = None

    def enqueue(
        self, work: Callable[[], object], *, interrupt: Callable[[], object] | None = None
    ) -> None:
        """Put `work` on the stream; it runs in the stream's thread after all work before it.

        Args:
            work: takes no argument; its result is dropped, and what it raises is a device fault.
            interrupt: called from another thread when the driver closes while `work` runs; must
                make it return soon. Work without one must be short.

        Raises:
            DeviceLost: the device has had a fault.
            InvalidRequest: the stream is closed.
        """
        with self._changed:
            self._check_usable()
            self._put(Work(work, interrupt))

    def record(self) -> VirtualEvent:
        event = VirtualEvent(self._owner)
        with self._changed:
            self._check_usable()
            idle = self._current is None and not self._queue
            if not idle:
                self._put(event)
        if idle:
            event.settle()
        return event

    def wait_event(self, event: DriverEvent) -> None:
        if not isinstance(event, VirtualEvent):
            raise InvalidRequest(f"{event!r} is not an event of the virtual driver")
        if event.done():
            with self._changed:
                self._check_usable()
            return
        settled = threading.Event()
        event.on_settled(settled.set)

        def wait() -> None:
            settled.wait()
            # Work that depends on a lost device cannot go on: CUDA's sticky errors, too, spread to
            # whatever waits for them.
            event.done()

        self.enqueue(wait, interrupt=settled.set)

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify()

    @property
    def gone(self) -> bool:
        """Closed, with nothing left of it."""
        with self._changed:
            thread = self._thread
            return self.closed and not self._serving and (thread is None or not thread.is_alive())

    def abandon(self, failure: str) -> None:
        """Drop the work that has not begun; its events fail with `failure`."""
        with self._changed:
            dropped, self._queue = self._queue, deque()
        for item in dropped:
            if isinstance(item, VirtualEvent):
                item.settle(failure)

    def stop(self, failure: str) -> None:
        """Close, drop what has not begun, and interrupt what runs."""
        self.close()
        self.abandon(failure)
        with self._changed:
            current = self._current
        if isinstance(current, Work) and current.interrupt is not None:
            current.interrupt()

    def join(self, timeout: float) -> bool:
        """Wait for the thread of a closed stream; return whether it has ended within `timeout`."""
        thread = self._thread
        if thread is None:
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _check_usable(self) -> None:
        if self._owner.lost is not None:
            raise DeviceLost(self._owner.lost)
        if self.closed:
            raise InvalidRequest(f"{self!r} is closed")

    def _put(self, item: Work | VirtualEvent) -> None:
        self._queue.append(item)
        if self._serving:
            self._changed.notify()
            return
        self._serving = True
        # A daemon, because work is foreign code that may never return; `VirtualDriver.close` is
        # what ends it in good order.
        self._thread = threading.Thread(
            target=self._serve, name=f"asyncgpu cuda:{self.device} stream {self.id}", daemon=True
        )
        self._thread.start()

    def _serve(self) -> None:
        while (item := self._next()) is not None:
            if isinstance(item, VirtualEvent):
                item.settle()
            else:
                self._owner.perform(item)
            # Idle streams must not keep the memory of their last work alive.
            del item

    def _next(self) -> Work | VirtualEvent | None:
        with self._changed:
            self._current = None
            while not self._queue:
                if self.closed or not self._changed.wait(_LINGER_SECONDS):
                    # Work that came in while the wait ran out is still served.
                    if self._queue:
                        break
                    self._serving = False
                    return None
            self._current = self._queue.popleft()
            return self._current

    def __repr__(self) -> str:
        return f"<VirtualStream {self.id} of cuda:{self.device}>"
