"""Starting a worker process, without ever keeping the event loop and without losing one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import anyio

from ..ports import WorkerSpec
from .arena import create_arena_file
from .handshake import Descriptors, Setup
from .imports import ImportState
from .worker_process import Ends, WorkerProcess

__all__ = ["Launch"]

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
# The same interpreter finds this very package first; another one its own, if it has one.
_BOOT = (
    "import sys; sys.path.insert({place}, {root!r}); "
    "from asyncgpu.workers.child import main; main({descriptors})"
)
_LAST = 1 << 30


class Launch:
    """One start of a process, in a thread, that can be abandoned at any moment.

    A task of asyncio can be cancelled although it waits for a thread, and the thread's result is
    then lost; here it would be a process. So whoever comes second, the thread or the abandoning
    task, ends it.
    """

    def __init__(self, spec: WorkerSpec, codecs: tuple[str, ...], arena_bytes: int) -> None:
        self._spec = spec
        self._codecs = codecs
        self._arena_bytes = arena_bytes
        self._lock = threading.Lock()
        self._begun = False
        self._abandoned = False
        self._process: WorkerProcess | None = None
        self.over = threading.Event()
        """Set when the thread has nothing more to do."""

    async def start(self) -> WorkerProcess:
        """Start the process. Nothing is left of it when this is cancelled.

        Raises:
            OSError: the interpreter cannot be started.
        """
        try:
            # A limiter of its own: a program whose threads are all busy can still start workers.
            await anyio.to_thread.run_sync(self._run, limiter=anyio.CapacityLimiter(1))
        except BaseException:
            self._abandon()
            raise
        assert self._process is not None
        return self._process

    def _run(self) -> None:
        with self._lock:
            if self._abandoned:
                return
            self._begun = True
        try:
            process = _spawn(self._spec, self._codecs, self._arena_bytes)
            if not self._keep(process):
                process.end_unwatched()
        finally:
            self.over.set()

    def _keep(self, process: WorkerProcess) -> bool:
        with self._lock:
            if not self._abandoned:
                self._process = process
            return not self._abandoned

    def _abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            begun, process = self._begun, self._process
        if process is not None:
            process.end_unwatched()
        if not begun:
            self.over.set()


def _spawn(spec: WorkerSpec, codecs: tuple[str, ...], arena_bytes: int) -> WorkerProcess:
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
    # Put together while the interpreter starts; it takes milliseconds in a large program.
    same = _same_interpreter(spec)
    imports = ImportState.of_this_process()
    setup = Setup(spec.name, imports if same else imports.for_other_interpreter(), same, codecs)
    return WorkerProcess(popen, ends, setup)


def _same_interpreter(spec: WorkerSpec) -> bool:
    return spec.python is None or spec.python == sys.executable


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
        place=0 if _same_interpreter(spec) else _LAST,
        root=_PACKAGE_ROOT,
        descriptors=", ".join(map(str, descriptors)),
    )
    # -P: a stray module in the current folder must not stand in for one of ours.
    return [spec.python or sys.executable, "-P", "-c", boot]
