"""A gate: closed at first, opened once, waited for from anywhere.

A test holds the program at a known place with one, instead of sleeping and hoping. The gate is a
named pipe: to open it is to write a byte that nobody ever reads, so that from then on the pipe is
readable for everybody who looks, in any process, thread or event loop, and no one polls.
"""

from __future__ import annotations

import errno
import os
import select
import tempfile
import uuid
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from .target import virtual_stream

__all__ = ["Gate", "gate"]


class Gate:
    """Opened once, by anybody; see `gate`. Thread-safe.

    A gate can be pickled and sent to a worker, as an argument of a tool or among its items; the
    copy there opens the same gate and waits for it. One whose maker has closed it is open.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen_open = False

    def open(self) -> None:
        """Let everybody through, now and from now on; idempotent."""
        self._seen_open = True
        try:
            pipe = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            # No such pipe, or nobody at its other end: its maker has closed it.
            if error.errno in (errno.ENOENT, errno.ENXIO):
                return
            raise
        try:
            # Full, if it was opened tens of thousands of times.
            with suppress(BlockingIOError):
                os.write(pipe, b"!")
        finally:
            os.close(pipe)

    def is_open(self) -> bool:
        with suppress(TimeoutError):
            self.wait_sync(timeout=0)
            return True
        return False

    async def wait(self) -> None:
        """Wait, in an event loop, until it is open."""
        # Late, because a worker process that blocks on a gate needs no event loop.
        import anyio.lowlevel

        pipe = self._readable_end()
        if pipe is None:
            await anyio.lowlevel.checkpoint()
            return
        try:
            await anyio.wait_readable(pipe)
        finally:
            os.close(pipe)
        self._seen_open = True

    def wait_sync(self, timeout: float | None = None) -> None:
        """Block this thread, without the GIL, until it is open.

        Args:
            timeout: seconds; None: for as long as it takes.

        Raises:
            TimeoutError: it was not opened in time.
        """
        pipe = self._readable_end()
        if pipe is None:
            return
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        try:
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError(f"the gate was not opened within {timeout:g} s")
        finally:
            os.close(pipe)
        self._seen_open = True

    def hold(self, target: object) -> None:
        """Hold a virtual stream: its later work waits until the gate is open; returns at once.

        A runtime that closes while one of its streams is held opens the gate.

        Args:
            target: an `ExecutionContext`, or its `stream`.

        Raises:
            InvalidRequest: `target` is not on a virtual device.
            DeviceLost: the device has had a fault.
        """
        virtual_stream(target).enqueue(self.wait_sync, interrupt=self.open)

    def close(self) -> None:
        """Open it, and remove its pipe; idempotent."""
        self.open()

    def _readable_end(self) -> int | None:
        if self._seen_open:
            return None
        try:
            return os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Gate], tuple[str]]:
        return Gate, (self._path,)

    def __repr__(self) -> str:
        return f"<Gate {'open' if self.is_open() else 'closed'}>"


class _OwnGate(Gate):
    """The maker's: it keeps the pipe alive, and takes it away."""

    def __init__(self) -> None:
        super().__init__(str(Path(tempfile.gettempdir()) / f"asyncgpu-gate-{uuid.uuid4().hex}"))
        os.mkfifo(self._path, 0o600)
        # Open at both ends, so that neither writing nor reading ever finds nobody there.
        pipe = os.open(self._path, os.O_RDWR | os.O_NONBLOCK)
        self._remove = weakref.finalize(self, _remove, self._path, pipe)

    def close(self) -> None:
        super().close()
        self._remove()


def gate() -> Gate:
    """Return a closed gate.

    ::

        with gate() as entered:
            task_group.start_soon(work, entered)
            await entered.wait()

    Leaving the block opens it, so that nothing is left waiting, and removes it. Outside a `with`
    block, `close` does the same, and so does the garbage collector.
    """
    return _OwnGate()


def _remove(path: str, pipe: int) -> None:
    Path(path).unlink(missing_ok=True)
    os.close(pipe)
