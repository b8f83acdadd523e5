"""What is current in each thread: a stream for each device, the inference mode, and one memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ...errors import InvalidRequest, InvalidTransition
from ..inference import enter_inference, leave_inference
from .memory import VirtualMemory
from .stream import VirtualStream

if TYPE_CHECKING:
    from .metering import Meter

__all__ = ["CurrentStreams"]

_Token = tuple[int, VirtualStream | None, object, bool, VirtualMemory | None]


class CurrentStreams:
    """The current streams of every thread, and what comes and goes with them.

    `apply` and `undo` stand in every step of every task inside a session, so they are a handful of
    dictionary operations. Unlike CUDA, `undo` checks its order: this driver is the test bed, and
    here a stream that is restored in the wrong order should be found, not guessed at.
    """

    def __init__(self) -> None:
        self._thread = _Thread()

    def get(self, device: int) -> VirtualStream | None:
        """Return this thread's stream on `device`; None: the default stream."""
        return self._thread.state.streams.get(device)

    def apply(
        self, stream: VirtualStream, *, inference: bool, memory: VirtualMemory | None
    ) -> _Token:
        """Make `stream` current for this thread; return the token that `undo` takes.

        Args:
            stream: an open stream.
            inference: whether torch's inference mode goes on with it.
            memory: what is charged for allocations from now on; None: as before.

        Raises:
            InvalidRequest: the stream or the memory is closed.
        """
        if stream.closed:
            raise InvalidRequest(f"{stream!r} is closed")
        if memory is not None and memory.closed:
            raise InvalidRequest(f"the memory of a context on cuda:{memory.device} is closed")
        mode = enter_inference() if inference else None
        state = self._thread.state
        device = stream.device
        outer = None
        if memory is not None:
            if state.meter is None:
                state.meter = memory.new_meter()
            outer = state.meter.enter(memory)
        token = (device, state.streams.get(device), mode, memory is not None, outer)
        state.streams[device] = stream
        state.tokens.append(token)
        return token

    def undo(self, token: object) -> None:
        """Restore what was current before the `apply` that returned `token`.

        Raises:
            InvalidTransition: `token` is not this thread's latest; nothing was changed.
        """
        state = self._thread.state
        tokens = state.tokens
        if not tokens or tokens[-1] is not token:
            raise InvalidTransition(
                "current stream", f"{len(tokens)} applied in this thread", "undo out of order"
            )
        device, previous, mode, metered, outer = tokens.pop()
        if metered:
            assert state.meter is not None
            state.meter.leave(outer)
        if previous is None:
            del state.streams[device]
        else:
            state.streams[device] = previous
        if mode is not None:
            leave_inference(mode)


class _Thread(threading.local):
    # One attribute, because reading one of a thread-local costs as much as the rest together.
    def __init__(self) -> None:
        self.state = _ThreadState()


class _ThreadState:
    __slots__ = ("meter", "streams", "tokens")

    def __init__(self) -> None:
        self.streams: dict[int, VirtualStream] = {}
        self.tokens: list[_Token] = []
        self.meter: Meter | None = None
