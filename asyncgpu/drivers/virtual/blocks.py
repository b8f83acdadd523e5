"""Blocks of a virtual device: memory of the CPU, copied like any device's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..host_buffers import HostBuffers
from .event import VirtualEvent
from .stream import VirtualStream

__all__ = ["VirtualBlocks"]


class VirtualBlocks:
    """A `DriverBlocks` whose copies run on a virtual stream.

    Host and device are the same memory here, and every move is a copy all the same: a program that
    relies on a block staying where it was fails on this driver too.

    Args:
        stream: what the copies run on.
        current: returns the calling thread's stream on a device; None: the default stream.
        spare: bytes of host memory kept for further copies.
    """

    def __init__(
        self,
        stream: VirtualStream,
        *,
        current: Callable[[int], VirtualStream | None],
        spare: int,
    ) -> None:
        import torch

        self._torch: Any = torch
        self._stream = stream
        self._current = current
        self._hosts = HostBuffers(self.empty, lambda host: None, spare=spare)

    def empty(self, nbytes: int) -> Any:
        return self._torch.empty(nbytes, dtype=self._torch.uint8)

    def to_host(self, tensor: Any) -> Any:
        host = self._hosts.lend(tensor.numel())
        self._stream.enqueue(partial(self._copy, host, tensor))
        return host

    def to_device(self, host: Any, tensor: Any) -> None:
        self._stream.enqueue(partial(self._copy, tensor, host))

    def forget(self, host: Any) -> None:
        self._hosts.take_back(host)

    def fence(self) -> VirtualEvent | None:
        stream = self._current(self._stream.device)
        # What is on no stream was run by the calling thread itself, and is done.
        return None if stream is None else stream.record()

    def trim(self) -> None:
        self._hosts.trim()

    def close(self) -> None:
        self._hosts.close()

    def _copy(self, to: Any, source: Any) -> None:
        to.copy_(source)
