"""Tools that worker processes import by name, and the gates that tests hold them by."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio


class Gate:
    """A place in a worker's code where it waits for the test. No clock is involved.

    Two named pipes: the worker says on one that it has arrived, and reads the other until the test
    lets it go on.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.arrived, self.opened = str(folder / "arrived"), str(folder / "opened")
        self.ends = []
        for path in (self.arrived, self.opened):
            os.mkfifo(path)
            # Both ways, so that neither side waits for the other to open it.
            self.ends.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))

    def __getstate__(self):
        return {"arrived": self.arrived, "opened": self.opened}

    def wait(self) -> None:
        """In the worker."""
        self.say(b"x")
        with Path(self.opened).open("rb", buffering=0) as file:
            file.read(1)

    def say(self, data: bytes) -> None:
        """In the worker: write something for the test and go on."""
        with Path(self.arrived).open("wb", buffering=0) as file:
            file.write(data)

    async def heard(self) -> bytes:
        """In the test: what a worker said."""
        with anyio.fail_after(10):
            await anyio.wait_readable(self.ends[0])
        return os.read(self.ends[0], 1000)

    def open(self) -> None:
        os.write(self.ends[1], b"x")

    def close(self) -> None:
        for end in self.ends:
            os.close(end)


class Bare:
    """The parts of a tool that nobody looks at here."""

    def load(self, device):
        pass

    def close(self):
        pass


class Echo(Bare):
    def run(self, items):
        return items


class Named(Echo):
    name = "the named one"


class WhoAmI(Bare):
    def run(self, items):
        return [(os.getpid(), os.getpgrp(), os.getsid(0))] * len(items)


class Calls(Bare):
    """Each item is a function and its arguments."""

    def run(self, items):
        return [function(*arguments) for function, *arguments in items]


class Waits(Bare):
    """Stops at its gate for items that are ``"wait"``; answers whether it was cancelled."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def run(self, items):
        from asyncgpu import worker

        for item in items:
            if item == "wait":
                self.gate.wait()
        return [(item, worker.cancelled()) for item in items]


class UntilCancelled(Bare):
    """Says that it has begun, and ends when it is cancelled."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def run(self, items):
        from asyncgpu import worker

        self.gate.say(b"begun")
        while not worker.cancelled():
            time.sleep(0.001)
        return ["cancelled"] * len(items)


class ClosesLoudly(Echo):
    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def close(self):
        self.gate.say(b"closed")


class Moves(Echo):
    def load(self, device):
        self.places = [(device, self.devices)]

    def to(self, device):
        self.places.append((device, self.devices))

    def run(self, items):
        return [(self.places, self.devices)] * len(items)


class FailsToLoad(Echo):
    def load(self, device):
        raise FileNotFoundError(f"no weights for {device}")


class TwoArguments(Exception):
    def __init__(self, what, where):
        super().__init__(f"{what} in {where}")


def fail(kind, *arguments):
    raise kind(*arguments)


def a_lock():
    return threading.Lock()


def end_process(code):
    sys.stderr.write("the last words\n")
    os._exit(code)


def kill_process():
    os.write(2, b"no newline at the end")
    os.kill(os.getpid(), signal.SIGKILL)


def write(descriptor, data):
    os.write(descriptor, data)


def environment(name):
    return os.environ.get(name)


def spin_forever():
    """Never lets go of the GIL."""
    sum(range(10**12))


def stubborn_child(gate):
    """Start a process that ignores SIGTERM and keeps this one's stderr; return its id."""
    code = (
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "open(sys.argv[1], 'wb', buffering=0).write(b'x'); signal.pause()"
    )
    return subprocess.Popen([sys.executable, "-c", code, gate.arrived]).pid


class UnreadableThere:
    """Can be pickled, and unpickled nowhere."""

    def __reduce__(self):
        return refuse, ()


def refuse():
    raise OSError("not in a worker")
