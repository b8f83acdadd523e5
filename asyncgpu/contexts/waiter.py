"""Waits for the events of one stream without blocking an event loop.

An event that has been reached resolves at once. A pending one is looked at by the loop's poller for
a short window and then handed to this context's waiter thread, which blocks in the driver without
the GIL and wakes every loop once for all that is done. No Python function is ever called from a
driver's callback: it would deadlock on the GIL, and CUDA never calls it after a fault.

The thread walks along the events in the order in which they were recorded, whether somebody waits
for each or not. If it blocked on the awaited one only, a task that comes later but waits for an
earlier event would not be woken before the later event is reached, which may never happen when the
work in between depends on that task.

Memory that another context lends to this stream is let go here, too: the next marker, or else one
that the thread records for it, says when the stream is done with it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from ..errors import DeviceLost
from ..home_loop import HomeLoop, home_loop
from ..ports import DriverEvent, DriverStream
from ..promise import new_promise, resolve
from .device_lost import device_lost
from .own_thread import OwnThread
from .poller import PendingWait, running_poller

__all__ = ["Marker", "Waiter"]


class Marker:
    """One event recorded on the stream, and who asked the thread to tell when it is reached."""

    __slots__ = ("borrowed", "callbacks", "event", "failure", "passed", "waits")

    def __init__(self, event: DriverEvent, borrowed: list[object]) -> None:
        self.event = event
        self.waits: list[PendingWait] = []
        self.callbacks: list[Callable[[Exception | None], object]] = []
        # Owners of memory that work before it may use, and no work after it.
        self.borrowed = borrowed
        self.passed = False
        self.failure: Exception | None = None

    @property
    def asked_for(self) -> int:
        """How many wait for it."""
        return len(self.waits) + len(self.callbacks) + len(self.borrowed)


class Waiter:
    """Records markers on one stream, and waits for them.

    Args:
        name: of the context, for errors and the thread.
        stream: the context's stream.
    """

    def __init__(self, name: str, stream: DriverStream) -> None:
        self._what = f"context {name!r}"
        self._stream = stream
        self._thread = OwnThread(f"asyncgpu {name} waiter", self._run)
        # Wakes the thread. Not a condition, because a finaliser has to ring it, which may have
        # interrupted this very thread in the middle of a notify.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._let_go: deque[object] = deque()
        # Guards what follows. Recording happens under it, so that the order here is the stream's.
        self._lock = threading.Lock()
        self._unreached: deque[Marker] = deque()
        self._asked_for = 0
        self._stopping = False

    def record(self) -> Marker:
        """Put a marker behind all the work that the stream has now.

        Raises:
            DeviceLost: the device has had a fault.
        """
        with self._lock:
            self._forget_reached()
            # Counted first: what is let go after the event is recorded may be in use after it.
            count = len(self._let_go)
            event = self._recorded()
            marker = Marker(event, self._take_let_go(count))
            self._unreached.append(marker)
            self._asked_for += marker.asked_for
        return marker

    def start(self) -> None:
        """Start the thread, so that `let_go` need not."""
        self._thread.start()

    def let_go(self, owner: object) -> None:
        """Drop the owner of borrowed memory once the work that the stream has now is done.

        From any thread and in a finaliser, which may interrupt anything: it takes no lock.
        """
        self._let_go.append(owner)
        if self._stopping:
            self._let_go.clear()
        else:
            self._bell.put(None)

    async def wait(self, marker: Marker) -> None:
        """Wait for `marker`; at once if it has been reached. Cancelling leaves the event as it is.

        Raises:
            DeviceLost: the device has had a fault.
        """
        try:
            if marker.event.done():
                return
        except DeviceLost as lost:
            raise device_lost(lost, f"{self._what}: waiting for an event") from lost
        promise = new_promise()

        def hand_over(wait: PendingWait) -> None:
            self._hand_over(marker, wait)

        running_poller().add(PendingWait(marker.event, promise, home_loop(), hand_over))
        error = await promise
        if error is not None:
            raise device_lost(error, f"{self._what}: waiting for an event")

    def _recorded(self) -> DriverEvent:
        try:
            return self._stream.record()
        except DeviceLost as error:
            raise device_lost(error, f"{self._what}: recording an event") from error

    def when_reached(self, marker: Marker, callback: Callable[[Exception | None], object]) -> None:
        """Call `callback` with None once `marker` is reached, or with the driver's exception.

        It is called in the waiter's thread or at once, and must be quick.
        """
        if _is_reached(marker):
            callback(None)
        elif not self._ask(marker, lambda: marker.callbacks.append(callback)):
            callback(marker.failure)

    def end(self) -> None:
        """Let the thread end after the marker it waits for; it tells whoever still waits."""
        with self._lock:
            self._stopping = True
        self._bell.put(None)

    async def stop(self) -> None:
        """End the thread. The stream's work is done; whoever still waits is told so."""
        self.end()
        await self._thread.join()
        self._tell_all()

    def _hand_over(self, marker: Marker, wait: PendingWait) -> None:
        if not self._ask(marker, lambda: marker.waits.append(wait)):
            resolve(wait.promise, marker.failure)

    def _ask(self, marker: Marker, enter: Callable[[], None]) -> bool:
        """Call `enter` and let the thread see to it; return False if it has passed already."""
        with self._lock:
            if marker.passed or self._stopping:
                return False
            self._thread.start()
            enter()
            self._asked_for += 1
        self._bell.put(None)
        return True

    def _run(self) -> None:
        while (marker := self._next()) is not None:
            try:
                marker.event.synchronize()
            except Exception as error:  # noqa: BLE001 - whatever it is, the waiting tasks get it
                # Sticky, so everything recorded so far has failed with it.
                _tell(self._take(lambda marker: True, error), error)
            else:
                _tell(self._take(_is_reached), None)
            del marker
        self._tell_all()

    def _next(self) -> Marker | None:
        while True:
            for _ in range(self._bell.qsize()):
                self._bell.get()  # what it rang for is seen below
            if self._let_go:
                # If the stream takes no marker any more, the memory stays until the context closes.
                with suppress(Exception):
                    self.record()
            with self._lock:
                if self._stopping:
                    return None
                if self._asked_for:
                    return self._unreached[0]
            self._bell.get()

    def _tell_all(self) -> None:
        self._let_go.clear()
        _tell(self._take(lambda marker: True), None)

    def _take(
        self, passed: Callable[[Marker], bool], failure: Exception | None = None
    ) -> list[Marker]:
        """Remove and return the markers at the front for which `passed` holds."""
        taken: list[Marker] = []
        with self._lock:
            while self._unreached and passed(self._unreached[0]):
                taken.append(self._remove_first(failure))
            self._asked_for -= sum(marker.asked_for for marker in taken)
        return taken

    def _take_let_go(self, count: int) -> list[object]:
        # Fewer if the waiter has been stopped meanwhile.
        return [self._let_go.popleft() for _ in range(count) if self._let_go]

    def _forget_reached(self) -> None:
        # Two per new marker: enough that the deque shrinks to what is pending, at constant cost.
        for _ in range(2):
            first = self._unreached[0] if self._unreached else None
            if first is None or first.asked_for or not _is_reached(first):
                return
            self._remove_first()

    def _remove_first(self, failure: Exception | None = None) -> Marker:
        marker = self._unreached.popleft()
        marker.passed, marker.failure = True, failure
        return marker


def _is_reached(marker: Marker) -> bool:
    try:
        return marker.event.done()
    except Exception:  # noqa: BLE001 - whoever waits for it is told; this only tidies up
        return False


def _tell(markers: list[Marker], failure: Exception | None) -> None:
    """Tell everybody who asked for `markers`; each loop is woken once."""
    by_loop: dict[HomeLoop, list[PendingWait]] = {}
    for marker in markers:
        for wait in marker.waits:
            by_loop.setdefault(wait.loop, []).append(wait)
        for callback in marker.callbacks:
            callback(failure)
        # Whoever keeps the marker keeps neither callers nor memory with it.
        marker.waits, marker.callbacks, marker.borrowed = [], [], []
    for loop, together in by_loop.items():
        loop.call(_resolve_all, together, failure)


def _resolve_all(waits: list[PendingWait], failure: Exception | None) -> None:
    for wait in waits:
        resolve(wait.promise, failure)
