"""The GPU edge's memory: who may allocate what, and where allocations come from."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from .device import DriverEvent

__all__ = [
    "AccountReading",
    "DriverBlocks",
    "DriverMemory",
    "MemoryLedger",
    "Refusal",
]


class AccountReading(NamedTuple):
    """One account of a `MemoryLedger`, in bytes."""

    cap: int | None
    """The most it may use; None: no cap of its own."""
    reserved: int
    """What is set aside for it, used or not."""
    used: int
    """What it is charged for now."""
    peak: int
    """The most it was ever charged for at once."""


class Refusal(NamedTuple):
    """Why a `MemoryLedger` last refused to charge an account."""

    requested: int
    """Bytes asked for."""
    available: int
    """Bytes it could have had."""
    by_device: bool
    """The device was full, or promised to others; else it was the account's own cap or group."""


class MemoryLedger(Protocol):
    """One device's memory, shared out among accounts; in bytes.

    An account commits what it uses or what is reserved for it, whichever is more; commitments
    together never exceed the capacity, so no account can take what another one has reserved.
    Thread-safe, quick, never blocks: it is asked in the middle of allocations. The decisions are
    those of `asyncgpu.policy.budget`, whoever carries them out.
    """

    @property
    def available(self) -> int:
        """What a new account could reserve now; never negative."""
        ...

    @property
    def committed(self) -> int:
        """The sum of all commitments."""
        ...

    @property
    def used(self) -> int:
        """What all accounts together are charged for."""
        ...

    def set_capacity(self, nbytes: int) -> None:
        """Change what there is; commitments that no longer fit stay."""
        ...

    def open_group(self, limit: int) -> int:
        """Return a new group: its accounts together commit at most `limit`."""
        ...

    def close_group(self, group: int) -> None:
        """Forget a group that no open account is in."""
        ...

    def open(
        self, *, cap: int | None = None, reserved: int = 0, group: int | None = None
    ) -> int | None:
        """Return a new account; None: there is no room for `reserved`, in the group or at all."""
        ...

    def close(self, account: int) -> None:
        """End its reservation and refuse its charges; what it uses stays charged until credited."""
        ...

    def charge(self, account: int, nbytes: int) -> bool:
        """Let it use `nbytes` more; False: refused, nothing has changed but `refusal`."""
        ...

    def credit(self, account: int, nbytes: int) -> None:
        """Take back what was charged; from any thread, a finaliser included."""
        ...

    def set_cap(self, account: int, cap: int | None) -> None:
        """Change its cap; what it uses above that stays."""
        ...

    def reserve(self, account: int, nbytes: int) -> bool:
        """Change what is reserved for it to `nbytes`; False: no room for more, or it is closed."""
        ...

    def headroom(self, account: int) -> int:
        """What it could be charged now; never negative."""
        ...

    def read(self, account: int) -> AccountReading | None:
        """Return how it stands; None: it is gone, closed and using nothing.

        Numbers of accounts are never used again.
        """
        ...

    def refusal(self, account: int) -> Refusal | None:
        """Return its latest refusal; None: it has not been refused, or is gone."""
        ...


class DriverMemory(Protocol):
    """Where the allocations of one context come from while it is applied. Thread-safe."""

    @property
    def enforced(self) -> bool:
        """Whether an allocation that the ledger refuses fails where it is made."""
        ...

    @property
    def charged(self) -> int:
        """Bytes its account is charged for. Cheap, because every step of a session reads it."""
        ...

    def live(self) -> int:
        """Bytes of live allocations; what the account is charged beyond them is cached."""
        ...

    def settle(self) -> None:
        """Bring the account up to date, where allocations are not charged as they are made."""
        ...

    def trim(self) -> None:
        """Give cached memory back. May block for milliseconds; nothing of it is applied here."""
        ...

    def refused(self, refusal: Refusal, context: str) -> Exception:
        """Return the error for a refusal at a decision point; see `translated`."""
        ...

    def translated(self, error: Exception, context: str) -> Exception:
        """Return our error for torch's out-of-memory one, or the same if it is none.

        It is a `VRAMBudgetExceeded` of `context`, or an `OutOfDeviceMemory`, and in both cases a
        ``torch.OutOfMemoryError`` too. It refers to nothing of the original.
        """
        ...

    def close(self) -> None:
        """Give back what can be given back; live tensors stay valid, and charged. Idempotent."""
        ...


class DriverBlocks(Protocol):
    """Blocks of device memory for a memory pool, and their copies on the host.

    The copies run on the stream that this was opened with, in order. Thread-safe.
    """

    def empty(self, nbytes: int) -> Any:
        """Return a one-dimensional ``uint8`` tensor on the device; may block for milliseconds.

        It is charged to the memory that is applied. It may be dropped once its last work is
        before some work of the stream.
        """
        ...

    def to_host(self, tensor: Any) -> Any:
        """Enqueue a copy to the host and return it: its bytes are there once the stream is past.

        May block for long where host memory must be page-locked first.
        """
        ...

    def to_device(self, host: Any, tensor: Any) -> None:
        """Enqueue a copy of `host` to `tensor`; both must stay until the stream is past."""
        ...

    def forget(self, host: Any) -> None:
        """Take back what `to_host` returned; no copy of it is under way."""
        ...

    def fence(self) -> DriverEvent | None:
        """Return an event behind the work that this thread has given the device; None: it is done.

        Raises:
            DeviceLost: the device has had a fault.
        """
        ...

    def trim(self) -> None:
        """Give host memory that holds no copy back to the system; may block for milliseconds."""
        ...

    def close(self) -> None:
        """Give all host memory back. The stream is past its last copy. Idempotent."""
        ...
