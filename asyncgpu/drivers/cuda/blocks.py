"""Blocks of a CUDA device's memory, and page-locked copies of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ...errors import DeviceError
from ..host_buffers import HostBuffers
from .event import CudaEvent
from .faults import translated
from .page_lock import PageLocks
from .stream import CudaStream

__all__ = ["CudaBlocks"]

# Smaller copies are faster through CUDA's own staging buffer than page-locking is once.
_LEAST_LOCKED = 64 << 10


class CudaBlocks:
    """A `DriverBlocks` whose copies run on a stream of our own, beside the kernels of others.

    Blocks are allocated with that stream current, so torch's allocator takes it for their owner:
    memory that is dropped is used again behind the work that the stream has then.

    Args:
        torch: the module.
        stream: what the copies run on.
        here: returns the calling thread's stream on the device, whoever's it is.
        locks: page-locks host memory.
        spare: bytes of host memory kept for further copies.
    """

    def __init__(
        self,
        torch: Any,
        stream: CudaStream,
        *,
        here: Callable[[], CudaStream],
        locks: PageLocks,
        spare: int,
    ) -> None:
        self._torch = torch
        self._stream = stream
        self._here = here
        self._locks = locks
        self._locked: set[int] = set()
        self._hosts = HostBuffers(self._new_host, self._discard_host, spare=spare)

    def empty(self, nbytes: int) -> Any:
        with self._on_stream():
            device = f"cuda:{self._stream.device}"
            return self._torch.empty(nbytes, dtype=self._torch.uint8, device=device)

    def to_host(self, tensor: Any) -> Any:
        host = self._hosts.lend(tensor.numel())
        with self._on_stream():
            host.copy_(tensor, non_blocking=True)
        return host

    def to_device(self, host: Any, tensor: Any) -> None:
        with self._on_stream():
            tensor.copy_(host, non_blocking=True)

    def forget(self, host: Any) -> None:
        self._hosts.take_back(host)

    def fence(self) -> CudaEvent:
        return self._here().record()

    def trim(self) -> None:
        self._hosts.trim()

    def close(self) -> None:
        self._hosts.close()

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        try:
            with self._torch.cuda.stream(self._stream.torch_stream):
                yield
        except RuntimeError as error:
            ours = translated(self._stream.device, error)
            if ours is error:
                raise
            raise ours from None

    def _new_host(self, nbytes: int) -> Any:
        if nbytes < _LEAST_LOCKED:
            return self._torch.empty(nbytes, dtype=self._torch.uint8)
        # The tensor keeps the mapping, and the mapping the memory.
        memory = self._locks.map(nbytes)
        host = self._torch.frombuffer(memory, dtype=self._torch.uint8)
        if self._locks.lock(host.data_ptr(), nbytes):
            self._locked.add(host.data_ptr())
        return host

    def _discard_host(self, host: Any) -> None:
        address = host.data_ptr()
        if address in self._locked:
            self._locked.discard(address)
            # After a fault nothing can be unlocked, and the process is to end anyway.
            with suppress(DeviceError):
                self._locks.unlock(address)
