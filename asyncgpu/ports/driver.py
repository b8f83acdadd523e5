"""The GPU edge: the driver that has the devices, and the codec for what it computes with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from .device import ComputeShare, DeviceInfo, DriverStream, Leaf
from .memory import DriverBlocks, DriverMemory, MemoryLedger
from .worker import Preparation

__all__ = ["Codec", "Driver"]


class Driver(Protocol):
    """One way to have GPUs. Everything here is quick, except where it says that it blocks."""

    @property
    def name(self) -> str: ...

    def inventory(self) -> Sequence[DeviceInfo]:
        """Return the visible devices in logical order. May block for tens of milliseconds."""
        ...

    def free_memory(self, device: int) -> int:
        """Bytes free on the device, whoever uses the rest. May block for milliseconds.

        Raises:
            DeviceLost: the device is gone for every process.
        """
        ...

    def torch_device(self, device: int) -> str:
        """What to hand to torch for this device: ``"cuda:0"``, or ``"cpu"`` for a virtual one."""
        ...

    def create_stream(
        self, device: int, *, level: int, share: ComputeShare | None = None
    ) -> DriverStream:
        """Open a stream of its own; `level` is 0 (most urgent), 1 or 2 (least).

        With `share`, its work runs on that part of the device only, where that is enforced. The
        first one may block for seconds: CUDA is initialised then.
        """
        ...

    def open_share(self, device: int, share: float) -> ComputeShare:
        """Set a part of the device's multiprocessors aside, above 0 and at most 1.

        Where nothing can enforce that it is only a label. Blocks for milliseconds, and for seconds
        where it comes before the first stream.

        Raises:
            InfeasibleRequest: so much is not left.
        """
        ...

    def current_stream(self, device: int) -> DriverStream | None:
        """The stream that this thread's work goes to now; None: the default stream."""
        ...

    def native_ledger(self, device: int, capacity: int) -> MemoryLedger | None:
        """Return a ledger that the driver's own allocator asks; None: it asks the caller's."""
        ...

    def open_memory(self, device: int, ledger: MemoryLedger, account: int) -> DriverMemory:
        """Return memory that is charged to `account`. The first one may block for seconds."""
        ...

    def open_blocks(self, stream: DriverStream, *, spare: int) -> DriverBlocks:
        """Return blocks whose copies run on `stream`.

        At most `spare` bytes of host memory are kept for further copies. The first one may block
        for seconds.
        """
        ...

    def apply(
        self,
        stream: DriverStream,
        *,
        inference: bool = False,
        memory: DriverMemory | None = None,
    ) -> object:
        """Make `stream` current for this thread; return the token that `undo` takes.

        With `inference`, torch's inference mode is on from here to `undo`; without it, the mode
        stays as it is. With `memory`, what this thread allocates until `undo` comes from there;
        one that is applied already is applied again. May raise, having changed nothing: the step
        hook records the fault on the session and the step still runs.
        """
        ...

    def undo(self, token: object) -> None:
        """Restore what was current before `apply`. Strictly last in, first out."""
        ...

    def alias(
        self, leaves: Sequence[Leaf], device: int, let_go: Callable[[object], object]
    ) -> list[object]:
        """Return the objects of `leaves`, with an alias in place of every tensor; no copies.

        Memory stays valid for as long as anything refers to what owns it. When the aliases of
        one memory and all their views are gone, `let_go` is called with that owner, in any thread
        and in the middle of anything: it must be quick, take no lock and not raise.

        Raises:
            InvalidRequest: a tensor is on another device, requires grad, or has no plain memory;
                the message names its place, and no alias was made.
        """
        ...

    def worker_environment(self, devices: Sequence[int]) -> Mapping[str, str]:
        """Environment a worker process needs before it imports anything.

        The worker sees exactly `devices`, and ``cuda:0`` there is the first of them: give all, in
        order, and indices mean the same in both processes.
        """
        ...

    def worker_preparation(self, devices: Sequence[str], vram: int) -> Preparation | None:
        """What holds a worker to the memory that its tool has declared; None: nothing does.

        Args:
            devices: the worker's, as torch calls them there.
            vram: bytes on each.
        """
        ...

    def close(self) -> None:
        """Give everything back; idempotent. Blocks until driver threads have ended."""
        ...


class Codec(Protocol):
    """Teaches pickle to carry one library's objects with their memory out of band.

    The runtime names it by import path, and both processes make one; the wire knows no library.
    """

    @property
    def module(self) -> str:
        """The library's top module. Until that is imported, the codec is not asked for anything."""
        ...

    def reducers(self) -> Mapping[type, Callable[[Any], Any]]:
        """Return reduce functions, as for `copyreg.pickle`, by the exact types they are for."""
        ...
