"""Locks host memory into its pages, so that the device can copy to and from it by itself."""

from __future__ import annotations

import mmap
from typing import Any

from ...errors import DeviceError, DeviceLost
from .native import NativeStreams

__all__ = ["PageLocks"]

_HUGE_PAGE = 2 << 20


class PageLocks:
    """Page-locked memory of exactly the size asked for. Thread-safe.

    torch's own rounds sizes up to a power of two, which can double the host memory of a pool.

    Args:
        native: for calls into CUDA.
        device: logical index; the memory is page-locked for all devices.
    """

    def __init__(self, native: NativeStreams, device: int) -> None:
        self._native = native
        self._device = device

    def map(self, nbytes: int) -> mmap.mmap:
        """Return anonymous memory, beginning at a page of its own; nothing is locked yet."""
        memory = mmap.mmap(-1, nbytes)
        if nbytes >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            # Page faults, not copies, are what page-locking spends its time on.
            memory.madvise(mmap.MADV_HUGEPAGE)
        return memory

    def lock(self, address: int, nbytes: int) -> bool:
        """Page-lock memory; False: the system allows no more, and copies to it will be slower.

        Raises:
            DeviceLost: the device has had a fault.
        """
        cuda = self._native.cuda
        try:
            portable = int(cuda.CU_MEMHOSTREGISTER_PORTABLE)
            self._in_context(cuda.cuMemHostRegister, address, nbytes, portable)
        except DeviceLost:
            raise
        except DeviceError:
            return False
        return True

    def unlock(self, address: int) -> None:
        """End what `lock` began.

        Raises:
            DeviceError: the device has had a fault.
        """
        self._in_context(self._native.cuda.cuMemHostUnregister, address)

    def _in_context(self, function: Any, *arguments: int) -> None:
        native, device = self._native, self._device
        # Pushed and popped: which device is current in this thread is torch's affair.
        native.call(device, native.cuda.cuCtxPushCurrent, native.cuda_context(device))
        try:
            native.call(device, function, *arguments)
        finally:
            native.call(device, native.cuda.cuCtxPopCurrent)
