"""`Partition`: a part of one device, for some contexts together."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from ..errors import InvalidRequest, RequestError
from ..policy.context_limits import ContextLimits
from ..policy.partitions import PartitionLimits
from ..ports import ComputeShare, MemoryLedger

__all__ = ["Partition", "PartitionUsage"]


@dataclass(frozen=True, slots=True)
class PartitionUsage:
    """What a partition is charged for, and for whom."""

    used: int
    """Bytes its contexts are charged for, and closed ones whose tensors are alive still."""
    contexts: tuple[str, ...]
    """The names of its contexts, those being created included; oldest first."""


class Partition:
    """A part of one device; made by `PartitionManager.create_partition`.

    Its contexts together obey its memory limit. What it is not is a reservation: that is each
    context's own matter, by its QoS class.

    Attributes:
        id: unique among the partitions of its manager.
        name: for people.
        limits: what it was made with.
        device: logical index; None: its manager knows of no hardware.
        closed: whether it was deleted.
    """

    def __init__(
        self,
        id: str,
        name: str,
        limits: PartitionLimits,
        *,
        device: int | None = None,
        share: ComputeShare | None = None,
    ) -> None:
        """Describe a part of a device.

        Args:
            id: unique among the partitions of its manager.
            name: for people.
            limits: what its contexts may use together.
            device: logical index; None: no hardware.
            share: its multiprocessors; None: those of the whole device.
        """
        self.id = id
        self.name = name
        self.limits = limits
        self.device = device
        self.share = share
        self.closed = False
        self._lock = threading.Lock()
        self._ledger: MemoryLedger | None = None
        self._group: int | None = None
        self._contexts: dict[str, None] = {}
        self._accounts: list[int] = []

    @property
    def memory_limit(self) -> int | None:
        """Bytes that its contexts may use together; None: no limit of its own."""
        return self.limits.memory_limit

    @property
    def compute_limit(self) -> float | None:
        """The share of the multiprocessors it was promised; None: those of the whole device."""
        return self.limits.compute_limit

    @property
    def compute_granted(self) -> float | None:
        """The share it really has: hardware gives multiprocessors in groups."""
        return self.compute_limit if self.share is None else self.share.granted

    @property
    def compute_enforced(self) -> bool:
        """Whether its contexts run on its multiprocessors only; else the share is a label."""
        return self.share is not None and self.share.enforced

    @property
    def sm_count(self) -> int | None:
        """The multiprocessors it has; None: it has none of its own."""
        return None if self.share is None else self.share.sm_count

    @property
    def usage(self) -> PartitionUsage:
        """A snapshot of what its contexts use."""
        with self._lock:
            return PartitionUsage(self._used(), tuple(self._contexts))

    # ------------------------------------------------------------------ for its contexts

    def enter(self, context: str, limits: ContextLimits) -> ContextLimits:
        """Take in a context that is being created; `leave` ends it.

        Returns:
            Its limits: without a maximum of its own it may use all of the partition.

        Raises:
            InvalidRequest: the context may use more than the partition.
            RequestError: the partition was deleted.
        """
        for what, size in (("max_vram", limits.max_vram), ("base_vram", limits.base_vram)):
            if self.memory_limit is not None and size is not None and size > self.memory_limit:
                raise InvalidRequest(
                    f"{what}: {size} bytes are more than {self} has: {self.memory_limit} bytes"
                )
        with self._lock:
            if self.closed:
                raise RequestError(f"{self} was deleted")
            self._contexts[context] = None
        if limits.max_vram is None:
            return replace(limits, max_vram=self.memory_limit)
        return limits

    def leave(self, context: str) -> None:
        """Let a context go, if it is here; what its tensors hold stays charged."""
        with self._lock:
            self._contexts.pop(context, None)

    def open_account(self, ledger: MemoryLedger, *, cap: int | None) -> int | None:
        """Open an account in `ledger`, which is always the same one, within the memory limit."""
        with self._lock:
            if self._ledger is None:
                self._ledger = ledger
                if self.memory_limit is not None:
                    self._group = ledger.open_group(self.memory_limit)
            self._used()  # So that accounts which are gone do not pile up.
            account = ledger.open(cap=cap, group=self._group)
            if account is not None:
                self._accounts.append(account)
            return account

    def _used(self) -> int:
        if self._ledger is None:
            return 0
        readings = {account: self._ledger.read(account) for account in self._accounts}
        # An account that was closed is gone once its last tensor is.
        self._accounts = [account for account, reading in readings.items() if reading is not None]
        return sum(reading.used for reading in readings.values() if reading is not None)

    # ------------------------------------------------------------------- for its manager

    def close(self) -> None:
        """Give its memory limit and its multiprocessors back; idempotent.

        Raises:
            RequestError: contexts are in it.
        """
        with self._lock:
            if self.closed:
                return
            if self._contexts:
                names = ", ".join(map(repr, self._contexts))
                raise RequestError(f"{self} is occupied: close its contexts first: {names}")
            self.closed = True
            group, self._group = self._group, None
        if group is not None and self._ledger is not None:
            self._ledger.close_group(group)
        if self.share is not None:
            self.share.close()

    def __str__(self) -> str:
        where = "" if self.device is None else f" of cuda:{self.device}"
        return f"partition {self.id!r}{where}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r} ({self.name}): {self.limits}>"
