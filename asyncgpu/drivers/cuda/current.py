"""Which CUDA stream and which memory each thread's work goes to, by torch's rules.

torch keeps, for each thread, one current stream per device and one current device; setting a stream
also makes its device current. So `apply` on another device than the current one changes two
streams, and `undo` restores both: first the other device's, then the current device's, which makes
that device current again.

With a memory, autograd's own threads are off: a backward pass runs in the thread that asks for it,
and allocates where that thread does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..inference import enter_inference, leave_inference
from .context_pools import ContextPools
from .current_pools import CurrentPools, PoolToken
from .pool_calls import PoolCalls
from .stream import StreamKey

__all__ = ["CurrentCudaStreams"]

_Token = tuple[StreamKey, StreamKey | None, object, PoolToken | None, bool]


class CurrentCudaStreams:
    """Reads and sets the calling thread's streams, and what comes and goes with them.

    Args:
        torch: the module. Its private calls take a third of the time of the public ones, and stand
            in every step of every task in a session; where a version lacks them the public ones do.
        calls: what it can do with memory pools; None: nothing.
    """

    def __init__(self, torch: Any, calls: PoolCalls | None = None) -> None:
        private = torch._C
        self._pools = None if calls is None else CurrentPools(calls)
        self._is_multithreading = private._is_multithreading_enabled
        self._set_multithreading = private._set_multithreading_enabled
        names = ("_cuda_getDevice", "_cuda_getCurrentStream", "_cuda_setStream")
        self._get_device: Callable[[], int]
        self._get_stream: Callable[[int], StreamKey]
        self._set_stream: Callable[..., None]
        if all(hasattr(private, name) for name in names):
            self._get_device, self._get_stream, self._set_stream = (
                getattr(private, name) for name in names
            )
        else:
            self._get_device = torch.cuda.current_device
            self._get_stream = _public_get(torch)
            self._set_stream = _public_set(torch)

    def get(self, device: int) -> StreamKey:
        """Return this thread's stream on `device`; its first number is 0 for the default one."""
        return self._get_stream(device)

    def apply(
        self, key: StreamKey, *, inference: bool, pools: ContextPools | None = None
    ) -> _Token:
        """Make the stream current for this thread; return the token that `undo` takes.

        Args:
            key: the stream.
            inference: whether torch's inference mode goes on with it.
            pools: where allocations come from, of the same device; None: as before.

        Raises:
            InvalidRequest: the pools are closed; nothing has changed.
            RuntimeError: torch refused; nothing has changed.
        """
        device = key[1]
        current_device = self._get_device()
        here = self._get_stream(current_device)
        there = None if device == current_device else self._get_stream(device)
        self._set(key)
        if pools is None or self._pools is None:
            return here, there, enter_inference() if inference else None, None, False
        try:
            # After the stream: a new pool belongs to the device that is current.
            entered = self._pools.enter(pools)
        except BaseException:
            self._set_back(here, there)
            raise
        multithreading = entered is not None and self._is_multithreading()
        if multithreading:
            self._set_multithreading(False)
        return here, there, enter_inference() if inference else None, entered, multithreading

    def undo(self, token: _Token) -> None:
        """Restore the streams, the device, the modes and the memory from before `apply`."""
        here, there, mode, entered, multithreading = token
        if mode is not None:
            leave_inference(mode)
        if multithreading:
            self._set_multithreading(True)
        try:
            if entered is not None and self._pools is not None:
                self._pools.leave(entered)
        finally:
            self._set_back(here, there)

    def _set_back(self, here: StreamKey, there: StreamKey | None) -> None:
        if there is not None:
            self._set(there)
        self._set(here)

    def _set(self, key: StreamKey) -> None:
        self._set_stream(stream_id=key[0], device_index=key[1], device_type=key[2])


def _public_get(torch: Any) -> Callable[[int], StreamKey]:
    def get(device: int) -> StreamKey:
        stream = torch.cuda.current_stream(device)
        return stream.stream_id, stream.device_index, stream.device_type

    return get


def _public_set(torch: Any) -> Callable[..., None]:
    def set_stream(**key: int) -> None:
        torch.cuda.set_stream(torch.cuda.Stream(**key))

    return set_stream
