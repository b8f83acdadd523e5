"""One worker process: our ends of what leads to it, its end, and that of its whole group.

The worker leads a session of its own. Whatever its tool starts belongs to its process group, and
the group is always ended with SIGKILL: when the worker has ended by itself too, and before it is
reaped, because until then nobody else can get its process id.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .handshake import Setup
from .reactor import Reactor

__all__ = ["Ends", "WorkerProcess"]


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
    """A started process, until it is reaped.

    Attributes:
        ends: our ends of what leads to it.
        setup: what to tell it first.
    """

    def __init__(self, popen: subprocess.Popen[bytes], ends: Ends, setup: Setup) -> None:
        self._popen = popen
        self.ends = ends
        self.setup = setup
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
