"""Partitions of one device: their limits, and the plan that shares the device out among them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from ..errors import DuplicateName, InfeasibleRequest, InvalidRequest
from ..units import Size, format_size, parse_size
from .shares import parse_amount, parse_share

__all__ = ["PartitionConfig", "PartitionLimits", "PartitionPlan"]


class PartitionConfig:
    """What there is to share out.

    Attributes:
        total_memory: bytes of the device.
        overcommit_ratio: how many times that the limits of all partitions may add up to.
    """

    def __init__(self, total_memory: Size, *, overcommit_ratio: float = 1.0) -> None:
        """Describe a device.

        Args:
            total_memory: bytes, or a size such as ``"8GiB"``; above 0.
            overcommit_ratio: 1 or more. Above 1 the partitions may together be allowed more memory
                than there is; what they use at once still has to fit. Compute shares never add up
                to more than the device.

        Raises:
            InvalidRequest: a parameter means nothing.
        """
        self.total_memory = _above_zero(total_memory, "total_memory")
        ratio = parse_amount(overcommit_ratio, what="overcommit_ratio")
        if ratio < 1:
            raise InvalidRequest(f"overcommit_ratio: {overcommit_ratio!r} is not 1 or more")
        self.overcommit_ratio = float(overcommit_ratio)
        self._limits_together = math.floor(self.total_memory * ratio)

    @property
    def limits_together(self) -> int:
        """What the memory limits of all partitions may add up to, in bytes."""
        return self._limits_together


@dataclass(frozen=True, slots=True)
class PartitionLimits:
    """What one partition may use; ``PartitionLimits().memory("4GiB").compute(0.5)``.

    Immutable: each method returns another one.
    """

    memory_limit: int | None = None
    """Bytes that its contexts may use together; None: no limit of its own."""
    compute_limit: float | None = None
    """Its share of the device's multiprocessors; None: it uses those of the whole device."""

    def __post_init__(self) -> None:
        if self.memory_limit is not None:
            size = _above_zero(self.memory_limit, "memory")
            object.__setattr__(self, "memory_limit", size)
        if self.compute_limit is not None:
            parse_share(self.compute_limit, what="compute")

    def memory(self, size: Size) -> PartitionLimits:
        """Return the same with another limit of memory.

        Args:
            size: bytes, or a size such as ``"4GiB"``; above 0.

        Raises:
            InvalidRequest: not a size above 0.
        """
        return replace(self, memory_limit=_above_zero(size, "memory"))

    def compute(self, share: float) -> PartitionLimits:
        """Return the same with another share of the multiprocessors.

        Args:
            share: above 0, at most 1.

        Raises:
            InvalidRequest: not a share.
        """
        return replace(self, compute_limit=share)

    @property
    def share(self) -> Fraction:
        """The compute share, exactly; 0 without one."""
        if self.compute_limit is None:
            return Fraction(0)
        return parse_share(self.compute_limit, what="compute")


class PartitionPlan:
    """Which partition is promised what. The promises never add up to more than there is.

    Args:
        config: what there is.
    """

    def __init__(self, config: PartitionConfig) -> None:
        self._config = config
        self._limits: dict[str, PartitionLimits] = {}
        self._memory = 0
        self._share = Fraction(0)

    def add(self, partition: str, limits: PartitionLimits) -> None:
        """Promise `limits` to a new partition.

        Raises:
            DuplicateName: there is one of that id.
            InfeasibleRequest: more than what is left; the message has the numbers.
        """
        if partition in self._limits:
            raise DuplicateName(f"there is a partition {partition!r} already")
        memory, share = limits.memory_limit or 0, limits.share
        if memory > self.memory_available:
            raise InfeasibleRequest(
                f"partition {partition!r}: {format_size(memory)} asked, "
                f"{format_size(self.memory_available)} of "
                f"{format_size(self._config.limits_together)} are left"
            )
        if self._share + share > 1:
            raise InfeasibleRequest(
                f"partition {partition!r}: compute {limits.compute_limit} asked, "
                f"{self.compute_available} of 1.0 is left"
            )
        self._limits[partition] = limits
        self._memory += memory
        self._share += share

    def remove(self, partition: str) -> None:
        """Take the promise to a partition back.

        Raises:
            InvalidRequest: there is no such partition.
        """
        if partition not in self._limits:
            raise InvalidRequest(f"there is no partition {partition!r}")
        limits = self._limits.pop(partition)
        self._memory -= limits.memory_limit or 0
        self._share -= limits.share

    @property
    def memory_allocated(self) -> int:
        """Bytes promised."""
        return self._memory

    @property
    def memory_available(self) -> int:
        """Bytes left to promise."""
        return self._config.limits_together - self._memory

    @property
    def compute_allocated(self) -> float:
        """The shares promised, together."""
        return float(self._share)

    @property
    def compute_available(self) -> float:
        """The share left to promise."""
        return float(1 - self._share)

    def __len__(self) -> int:
        return len(self._limits)


def _above_zero(size: Size, what: str) -> int:
    nbytes = parse_size(size, what=what)
    if nbytes == 0:
        raise InvalidRequest(f"{what}: 0 bytes; it must be above 0")
    return nbytes
