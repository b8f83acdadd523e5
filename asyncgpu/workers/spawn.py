"""One worker process: its pipes and sockets, its start, its end, and that of its whole group.

The worker leads a session of its own. Whatever its tool starts belongs to its process group, and
the group is always ended with SIGKILL: when the worker has ended by itself too, and before it is
reaped, because until then nobody else can get its process id.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio

from ..ports import WorkerSpec
from .arena import create_arena_file
from .handshake import Descriptors
from .reactor import Reactor

__all__ = ["Ends", "WorkerProcess", "launch"]

log = logging.getLogger("asyncgpu.workers")

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
# The same interpreter finds this very package first; another one its own, if it has one.
_BOOT = (
    "import sys; sys.path.insert({place}, {root!r}); "
    "from asyncgpu.workers.child import main; main({descriptors})"
)
_LAST = 1 << 30


@dataclass(slots=True)
class Ends:
    """The program's ends of everything that leads to a worker."""

    work: socket.socket
    control: socket.socket
    lifeline: int
    outbound: int
    inbound: int
    stdout: int
    stderr: int

    def close_files(self) -> None:
        """Close what no lane and no output has taken over."""
        for descriptor in (self.lifeline, self.outbound, self.inbound):
            os.close(descriptor)

    def close_all(self) -> None:
        """Close everything: the worker never started."""
        self.work.close()
        self.control.close()
        self.close_files()
        os.close(self.stdout)
        os.close(self.stderr)


class WorkerProcess:
    """A started process, until it is reaped."""

    def __init__(self, popen: subprocess.Popen[bytes], ends: Ends) -> None:
        self._popen = popen
        self.ends = ends
        self.pid = popen.pid
        self.exit_code: int | None = None
        """As `subprocess.Popen.returncode`; None until it has ended."""
        self._gone = False

    def kill(self) -> None:
        """Send SIGKILL to the process group; harmless afterwards."""
        if not self._gone:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def watch(self, reactor: Reactor, on_exit: Callable[[], None]) -> None:
        """Call `on_exit` in the loop's thread when the process has ended and been reaped."""
        if hasattr(os, "pidfd_open"):
            descriptor = os.pidfd_open(self.pid)

            def ended() -> None:
                reactor.unwatch(descriptor)
                os.close(descriptor)
                self._reap()
                on_exit()

            reactor.watch(descriptor, ended)
        else:
            wait = threading.Thread(
                target=self._wait, args=(reactor, on_exit), name="asyncgpu-exit", daemon=True
            )
            wait.start()

    def end_unwatched(self) -> None:
        """Kill and reap, blocking for as long as that takes; for a start nobody waits for."""
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(5)
        self._gone = True
        self.ends.close_all()

    def _wait(self, reactor: Reactor, on_exit: Callable[[], None]) -> None:
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

        def ended() -> None:
            self._reap()
            on_exit()

        reactor.from_thread(ended)

    def _reap(self) -> None:
        self.kill()
        self._gone = True
        self.exit_code = self._popen.wait()


async def launch(spec: WorkerSpec, arena_bytes: int) -> WorkerProcess:
    """Start the process in a thread; nothing is left of it when this is cancelled.

    Raises:
        OSError: the interpreter cannot be started.
    """
    starting = _Starting(spec, arena_bytes)
    try:
        await anyio.to_thread.run_sync(starting.run)
    except BaseException:
        starting.abandon()
        raise
    assert starting.process is not None
    return starting.process


class _Starting:
    """A start that can be abandoned while the thread is in the middle of it.

    A task of asyncio can be cancelled although it waits for a thread, and the thread's result is
    then lost; here it would be a process.
    """

    def __init__(self, spec: WorkerSpec, arena_bytes: int) -> None:
        self._spec = spec
        self._arena_bytes = arena_bytes
        self._lock = threading.Lock()
        self._abandoned = False
        self.process: WorkerProcess | None = None

    def run(self) -> None:
        process = _spawn(self._spec, self._arena_bytes)
        with self._lock:
            if not self._abandoned:
                self.process = process
                return
        process.end_unwatched()

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            process = self.process
        if process is not None:
            process.end_unwatched()


def is_own_interpreter(spec: WorkerSpec) -> bool:
    """Whether the worker runs under the interpreter of this process."""
    return spec.python is None or spec.python == sys.executable


def _spawn(spec: WorkerSpec, arena_bytes: int) -> WorkerProcess:
    with ExitStack() as ours, ExitStack() as theirs:
        work, their_work = _socket_pair(ours, theirs)
        control, their_control = _socket_pair(ours, theirs)
        their_lifeline, lifeline = _pipe(theirs, ours)
        stdout, their_stdout = _pipe(ours, theirs)
        stderr, their_stderr = _pipe(ours, theirs)
        outbound, inbound = (_arena(ours, arena_bytes) for _ in range(2))
        passed = Descriptors(
            work=their_work.fileno(),
            control=their_control.fileno(),
            lifeline=their_lifeline,
            inbound=outbound,  # what goes out here comes in there
            outbound=inbound,
        )
        popen = subprocess.Popen(
            _command(spec, passed),
            env={**os.environ, **spec.env},
            stdin=subprocess.DEVNULL,
            stdout=their_stdout,
            stderr=their_stderr,
            pass_fds=passed,
            start_new_session=True,
        )
        ours.pop_all()
    ends = Ends(work, control, lifeline, outbound, inbound, stdout, stderr)
    return WorkerProcess(popen, ends)


def _socket_pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    our, their = socket.socketpair()
    ours.callback(our.close)
    theirs.callback(their.close)
    return our, their


def _pipe(readers: ExitStack, writers: ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe()
    readers.callback(os.close, reader)
    writers.callback(os.close, writer)
    return reader, writer


def _arena(ours: ExitStack, nbytes: int) -> int:
    descriptor = create_arena_file(nbytes)
    ours.callback(os.close, descriptor)
    return descriptor


def _command(spec: WorkerSpec, descriptors: Descriptors) -> list[str]:
    boot = _BOOT.format(
        place=0 if is_own_interpreter(spec) else _LAST,
        root=_PACKAGE_ROOT,
        descriptors=", ".join(map(str, descriptors)),
    )
    # -P: a stray module in the current folder must not stand in for one of ours.
    return [spec.python or sys.executable, "-P", "-c", boot]
