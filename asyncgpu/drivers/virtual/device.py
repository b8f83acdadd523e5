"""One virtual device: its size, its streams, and whether it is lost."""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref

from ...errors import DeviceLost, InvalidRequest
from ...ports import DeviceInfo, MemoryLedger
from .claims import Claims
from .faults import FaultScript
from .memory import VirtualMemory
from .stream import VirtualStream, Work

__all__ = ["VirtualDevice"]

# CUDA's sense, lower is more urgent, for the levels 0, 1 and 2 of the port.
_PRIORITY = (-2, -1, 0)


class VirtualDevice:
    """What ``cuda:<index>`` is made of.

    Attributes:
        index: its logical index.
        total_memory: bytes.
        lost: why every wait on it fails; None: it is well.
        gone: it is lost to every process; else what is lost is this one's use of it.
    """

    def __init__(self, index: int, total_memory: int, script: FaultScript) -> None:
        self.index = index
        self.total_memory = total_memory
        self.lost: str | None = None
        self.gone = False
        self._script = script
        self._lock = threading.Lock()
        self._stream_ids = itertools.count(1)
        self._streams: list[VirtualStream] = []
        # A memory lives as long as its context, and as long as anything that was allocated there.
        self._memories: weakref.WeakSet[VirtualMemory] = weakref.WeakSet()
        self._closed = False

    def info(self) -> DeviceInfo:
        return DeviceInfo(
            index=self.index,
            name="asyncgpu virtual device",
            # The same for all of one process, different from any other program's devices.
            uuid=f"VIRTUAL-{os.getpid()}-{self.index}",
            total_memory=self.total_memory,
            physical=False,
        )

    def free_memory(self) -> int:
        """Bytes free: the total, minus what other programs use, and the contexts of this one.

        Raises:
            DeviceLost: the device is gone.
        """
        with self._lock:
            if self.gone:
                raise DeviceLost(f"{self.lost}")
            memories = list(self._memories)
        used = self._script.occupied(self.index) + sum(memory.charged for memory in memories)
        return max(0, self.total_memory - used)

    def open_memory(self, ledger: MemoryLedger, account: int, claims: Claims) -> VirtualMemory:
        """Open memory that is charged to `account`; imports torch.

        Args:
            ledger: asked before anything is charged.
            account: whom it charges.
            claims: those of the driver.
        """
        from .metering import Meter

        memory = VirtualMemory(
            self.index,
            self.total_memory,
            ledger=ledger,
            account=account,
            script=self._script,
            claims=claims,
            new_meter=Meter,
        )
        with self._lock:
            self._memories.add(memory)
        return memory

    def create_stream(self, level: int) -> VirtualStream:
        """Open a stream.

        Raises:
            DeviceLost: the device has had a fault.
            InvalidRequest: the driver is closed, or `level` is not 0, 1 or 2.
        """
        if level not in range(len(_PRIORITY)):
            raise InvalidRequest(f"stream level: {level!r} is not 0, 1 or 2")
        with self._lock:
            if self._closed:
                raise InvalidRequest(f"cuda:{self.index}: the virtual driver is closed")
            if self.lost is not None:
                raise DeviceLost(self.lost)
            self._streams = [stream for stream in self._streams if not stream.gone]
            stream = VirtualStream(self, id=next(self._stream_ids), priority=_PRIORITY[level])
            self._streams.append(stream)
            return stream

    def perform(self, work: Work) -> None:
        try:
            self._script.before_work(self.index)
            work.run()
        except BaseException as error:  # noqa: BLE001 - foreign code: any way to fail is a fault
            self._fail(f"{type(error).__name__}: {error}")

    def lose(self, reason: str) -> None:
        """Be gone for every process, as if fallen off the bus; the driver says so too."""
        self._fail(reason)
        self.gone = True

    def _fail(self, reason: str) -> None:
        """Let every wait on this device raise `DeviceLost`, now and for good; the first counts."""
        with self._lock:
            if self.lost is not None:
                return
            message = self.lost = f"cuda:{self.index} is lost: {reason}"
            streams = list(self._streams)
        for stream in streams:
            stream.abandon(message)

    def close(self, deadline: float) -> list[VirtualStream]:
        """End all streams; return those whose work was still running at `deadline`.

        Args:
            deadline: on the clock of `time.monotonic`.
        """
        with self._lock:
            self._closed = True
            streams, self._streams = self._streams, []
        for stream in streams:
            stream.stop(f"cuda:{self.index}: the virtual driver was closed before this was reached")
        return [s for s in streams if not s.join(max(0.0, deadline - time.monotonic()))]
