"""Compute shares by CUDA green contexts: streams that run on some multiprocessors (SMs) only.

A device is split once, into the smallest groups that its hardware has, and a share takes as many of
them as it pays for. CUDA lets groups of one split be put together again, but neither groups of two
splits nor a second split of what a first one left (cuda.h, cuDevSmResourceSplitByCount and
cuDevResourceGenerateDesc). On an H200 the 132 SMs are 16 groups of 8, and 4 stay over.

Memory is not split: all green contexts of a device share its memory, caches and bandwidth.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import Any

from ...errors import InfeasibleRequest, InvalidRequest
from .faults import Unsupported
from .native import NativeStreams

__all__ = ["CudaShare", "GreenContexts", "groups_for"]

_log = logging.getLogger("asyncgpu.drivers")

# The hardware or the driver cannot; cuda-python has no such function, or finds none in the driver.
_MISSING = (Unsupported, AttributeError, RuntimeError)


class CudaShare:
    """A `ComputeShare` that the hardware holds to.

    Attributes:
        device: logical index.
        granted: the part of the device's SMs that it has.
        sm_count: how many those are.
        green: the green context for its streams; None: it has the whole device.
        closed: whether `close` was called.
    """

    enforced = True

    def __init__(
        self, device: int, *, total: int, sm_count: int, green: Any, give_back: Callable[[], None]
    ) -> None:
        self.device = device
        self.granted = sm_count / total
        self.sm_count = sm_count
        self.green = green
        self.closed = False
        self._give_back = give_back

    def check(self, device: int) -> None:
        """Raise `InvalidRequest` unless it is an open share of `device`."""
        if device != self.device or self.closed:
            state = "closed" if self.closed else f"a share of cuda:{self.device}"
            raise InvalidRequest(f"cuda:{device}: no stream, the compute share is {state}")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._give_back()


class GreenContexts:
    """Hands out shares of the devices' SMs. Thread-safe.

    A green context is never destroyed, for the same reason as its streams (see `shelf`): whoever
    gets the same groups later gets the same green context.
    """

    def __init__(self, native: NativeStreams) -> None:
        self._native = native
        self._lock = threading.Lock()
        # None: a device that cannot be split.
        self._splits: dict[int, _Split | None] = {}

    def open(self, device: int, share: float) -> CudaShare | None:
        """Take a share of a device; None: nothing can enforce one there, and a log entry says why.

        Args:
            device: logical index.
            share: above 0, at most 1. Rounded down to whole groups, but to one at least.

        Raises:
            DeviceLost: the device has had a fault.
            DeviceError: CUDA refused.
            InfeasibleRequest: so many SMs are not left.
        """
        with self._lock:
            split = self._split(device)
            if split is None:
                return None
            if share >= 1:
                return self._whole(device, split)
            taken = split.take(device, share)
        try:
            return self._share(device, split, taken)
        except _MISSING as error:
            self._give_back(split, taken)
            self._cannot_split(device, error)
            return None
        except BaseException:
            self._give_back(split, taken)
            raise

    def _split(self, device: int) -> _Split | None:
        if device not in self._splits:
            try:
                self._splits[device] = _Split(*self._smallest_groups(device))
            except _MISSING as error:
                self._cannot_split(device, error)
        return self._splits[device]

    def _cannot_split(self, device: int, error: Exception) -> None:
        _log.warning("cuda:%d: compute shares are not enforced: %s", device, error)
        self._splits[device] = None

    def _smallest_groups(self, device: int) -> tuple[int, list[Any]]:
        """Return the number of SMs, and the groups of the device's one split."""
        native, cuda = self._native, self._native.cuda
        kind = cuda.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
        (whole,) = native.call(
            device, cuda.cuDeviceGetDevResource, native.cuda_device(device), kind
        )
        # CUDA rounds what is too small up to what its hardware has.
        split = (0, getattr(whole.sm, "minSmPartitionSize", 0) or 1)
        _, count, _ = native.call(device, cuda.cuDevSmResourceSplitByCount, 0, whole, *split)
        if count < 2:
            raise Unsupported(f"cuda:{device}: its {whole.sm.smCount} SMs cannot be split")
        groups, count, _ = native.call(
            device, cuda.cuDevSmResourceSplitByCount, count, whole, *split
        )
        return int(whole.sm.smCount), list(groups[:count])

    def _whole(self, device: int, split: _Split) -> CudaShare:
        total = split.total
        return CudaShare(device, total=total, sm_count=total, green=None, give_back=lambda: None)

    def _share(self, device: int, split: _Split, taken: tuple[int, ...]) -> CudaShare:
        if taken not in split.contexts:
            split.contexts[taken] = self._green_context(
                device, [split.groups[place] for place in taken]
            )
        return CudaShare(
            device,
            total=split.total,
            sm_count=len(taken) * split.size,
            green=split.contexts[taken],
            give_back=lambda: self._give_back(split, taken),
        )

    def _green_context(self, device: int, groups: list[Any]) -> Any:
        native, cuda = self._native, self._native.cuda
        # It retains the primary CUDA context, which is cheap only while that exists.
        native.cuda_context(device)
        (resources,) = native.call(device, cuda.cuDevResourceGenerateDesc, groups, len(groups))
        flags = int(cuda.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM)
        (green,) = native.call(
            device, cuda.cuGreenCtxCreate, resources, native.cuda_device(device), flags
        )
        return green

    def _give_back(self, split: _Split, taken: tuple[int, ...]) -> None:
        with self._lock:
            split.free.update(taken)


class _Split:
    """One device in its smallest groups of SMs, numbered, all of the same size.

    Attributes:
        total: SMs of the device, those that no group has included.
        groups: CUDA's resources.
        size: SMs of each group.
        free: the numbers of those that no share has.
        contexts: the green contexts made so far, by the groups they have.
    """

    def __init__(self, total: int, groups: list[Any]) -> None:
        self.total = total
        self.groups = groups
        self.size = int(groups[0].sm.smCount)
        self.free = set(range(len(groups)))
        self.contexts: dict[tuple[int, ...], Any] = {}

    def take(self, device: int, share: float) -> tuple[int, ...]:
        """Take the first free groups, so that the same ones are taken again and again."""
        wanted = groups_for(share, total=self.total, size=self.size)
        if wanted > len(self.free):
            raise InfeasibleRequest(
                f"cuda:{device}: a compute share of {share} is {wanted * self.size} of its "
                f"{self.total} SMs, in groups of {self.size}; {len(self.free) * self.size} are left"
            )
        taken = tuple(sorted(self.free)[:wanted])
        self.free.difference_update(taken)
        return taken


def groups_for(share: float, *, total: int, size: int) -> int:
    """Return how many groups of `size` SMs a share of `total` SMs pays for: one at least.

    Rounded down, so that shares which add up to one find room.
    """
    # A hair more: a product of floats may fall just short of the whole number it stands for.
    return max(1, math.floor(share * total / size + 1e-6))
