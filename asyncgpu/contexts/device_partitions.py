"""`DevicePartitions`: the partitions of every device of a runtime."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from ..errors import InvalidDevice, InvalidRequest, RequestError
from ..policy.partitions import PartitionConfig
from ..ports import Driver
from .partition import Partition
from .partitions import PartitionManager

__all__ = ["DevicePartitions"]


class DevicePartitions:
    """One `PartitionManager` for each device.

    Args:
        driver: the driver of the devices.
        capacities: bytes that this program may plan with, by logical index.
    """

    def __init__(self, driver: Driver, capacities: Mapping[int, int]) -> None:
        self._managers = {
            index: PartitionManager(
                PartitionConfig(capacity),
                device=index,
                open_share=functools.partial(driver.open_share, index),
            )
            for index, capacity in capacities.items()
        }

    def manager(self, index: int) -> PartitionManager:
        """Return the manager of a device.

        Raises:
            InvalidDevice: there is no such device.
        """
        if index not in self._managers:
            raise InvalidDevice(
                f"cuda:{index}: this program sees {len(self._managers)} CUDA device(s)"
            )
        return self._managers[index]

    def find(self, partition: Partition | str, device: int | None) -> Partition:
        """Return the partition that a caller means.

        Args:
            partition: itself, or its id.
            device: the logical index the caller has named; None: any device.

        Raises:
            InvalidRequest: it is of another device or another manager, or its id is of several.
            RequestError: there is none, or it was deleted.
        """
        if isinstance(partition, str):
            return self._by_id(partition, device)
        if not isinstance(partition, Partition):
            raise InvalidRequest(f"partition: {partition!r} is neither a Partition nor an id")
        if device is not None and partition.device not in (None, device):
            raise InvalidRequest(f"partition: {partition} cannot hold a context on cuda:{device}")
        if partition.closed:
            raise RequestError(f"partition: {partition} was deleted")
        manager = None if partition.device is None else self._managers.get(partition.device)
        if manager is None or manager.get_partition(partition.id) is not partition:
            raise InvalidRequest(
                f"partition: {partition} is not of this runtime; make it by `rt.partitions()`"
            )
        return partition

    def close(self) -> None:
        """Give the multiprocessors of all partitions back, and make no more; idempotent."""
        for manager in self._managers.values():
            manager.close()

    def _by_id(self, id: str, device: int | None) -> Partition:
        managers = self._managers.values() if device is None else [self.manager(device)]
        found = [p for manager in managers if (p := manager.get_partition(id)) is not None]
        if len(found) > 1:
            where = ", ".join(f"cuda:{partition.device}" for partition in found)
            raise InvalidRequest(f"partition: {id!r} is on {where}; name the device too")
        if not found:
            on = "" if device is None else f" on cuda:{device}"
            raise RequestError(f"partition: there is no partition {id!r}{on}")
        return found[0]
