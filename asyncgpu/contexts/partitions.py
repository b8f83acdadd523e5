"""`PartitionManager`: the partitions of one device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InvalidRequest, NoRuntime
from ..policy.partitions import PartitionConfig, PartitionLimits, PartitionPlan
from ..ports import ComputeShare
from .partition import Partition

__all__ = ["PartitionManager", "PartitionStats"]


@dataclass(frozen=True, slots=True)
class PartitionStats:
    """What the partitions of a device have been promised."""

    partitions: int
    """How many there are."""
    memory_allocated: int
    """The sum of their memory limits, in bytes."""
    memory_available: int
    """What another one could be promised, in bytes."""
    compute_allocated: float
    """The sum of their compute shares."""
    compute_available: float


class PartitionManager:
    """Shares a device out among partitions. Thread-safe.

    One made by itself keeps the books and enforces nothing. `Runtime.partitions` returns the one of
    a device: contexts created with ``partition=`` obey its limits there.
    """

    def __init__(
        self,
        config: PartitionConfig,
        *,
        device: int | None = None,
        open_share: Callable[[float], ComputeShare] | None = None,
    ) -> None:
        """Share out what `config` describes.

        Args:
            config: what there is.
            device: logical index of the hardware behind it; None: there is none.
            open_share: sets multiprocessors of it aside; None: compute shares are labels.

        Raises:
            InvalidRequest: `config` is none.
        """
        if not isinstance(config, PartitionConfig):
            raise InvalidRequest(f"config: {config!r} is no PartitionConfig")
        self.config = config
        self.device = device
        self._open_share = open_share
        self._lock = threading.Lock()
        self._plan = PartitionPlan(config)
        self._partitions: dict[str, Partition] = {}
        self._closed = False

    def create_partition(self, id: str, name: str, limits: PartitionLimits) -> Partition:
        """Make a partition.

        With a compute share on CUDA it makes a green context, which takes milliseconds; the first
        use of CUDA in a process takes seconds. So make partitions at start-up, or in a worker
        thread.

        Args:
            id: not empty, and not that of another partition of this manager.
            name: for people.
            limits: what its contexts may use together.

        Raises:
            DeviceError: the device cannot be used.
            DuplicateName: there is a partition of that id.
            InfeasibleRequest: more than what is left; the message has the numbers.
            InvalidRequest: a parameter means nothing.
            NoRuntime: the runtime of this manager is closed.
        """
        _check(id, name, limits)
        with self._lock:
            if self._closed:
                raise NoRuntime("the runtime of these partitions is closed: open another one")
            self._plan.add(id, limits)
        try:
            share = self._share(limits)
        except BaseException:
            with self._lock:
                self._plan.remove(id)
            raise
        partition = Partition(id, name, limits, device=self.device, share=share)
        with self._lock:
            self._partitions[id] = partition
        return partition

    def get_partition(self, id: str) -> Partition | None:
        """Return the partition of that id, or None."""
        return self._partitions.get(id)

    def partitions(self) -> list[Partition]:
        """Return the partitions, oldest first."""
        with self._lock:
            return list(self._partitions.values())

    def delete_partition(self, id: str) -> None:
        """Give what a partition was promised back to the others.

        Raises:
            InvalidRequest: there is no partition of that id.
            RequestError: contexts are in it; the message names them.
        """
        with self._lock:
            if id not in self._partitions:
                raise InvalidRequest(f"there is no partition {id!r}")
            self._partitions[id].close()
            del self._partitions[id]
            self._plan.remove(id)

    def stats(self) -> PartitionStats:
        """Return what is promised and what is left."""
        with self._lock:
            return PartitionStats(
                partitions=len(self._partitions),
                memory_allocated=self._plan.memory_allocated,
                memory_available=self._plan.memory_available,
                compute_allocated=self._plan.compute_allocated,
                compute_available=self._plan.compute_available,
            )

    def close(self) -> None:
        """Give the multiprocessors of all partitions back, and make no more; idempotent."""
        with self._lock:
            self._closed = True
            for partition in self._partitions.values():
                if partition.share is not None:
                    partition.share.close()

    def _share(self, limits: PartitionLimits) -> ComputeShare | None:
        if limits.compute_limit is None or self._open_share is None:
            return None
        return self._open_share(limits.compute_limit)


def _check(id: str, name: str, limits: PartitionLimits) -> None:
    for what, text in (("id", id), ("name", name)):
        if not isinstance(text, str) or not text.strip():
            raise InvalidRequest(f"{what}: {text!r} is not a name; use a string that is not empty")
    if not isinstance(limits, PartitionLimits):
        raise InvalidRequest(f"limits: {limits!r} are no PartitionLimits")
