"""What is current in each thread: one virtual stream for each device, and the inference mode."""

from __future__ import annotations

import threading

from ...errors import InvalidRequest, InvalidTransition
from ..inference import enter_inference, leave_inference
from .stream import VirtualStream

__all__ = ["CurrentStreams"]

_Token = tuple[int, VirtualStream | None, object]


class CurrentStreams:
    """The current streams of every thread.

    `apply` and `undo` stand in every step of every task inside a session, so they are a handful of
    dictionary operations. Unlike CUDA, `undo` checks its order: this driver is the test bed, and
    here a stream that is restored in the wrong order should be found, not guessed at.
    """

    def __init__(self) -> None:
        self._thread = _Thread()

    def get(self, device: int) -> VirtualStream | None:
        """Return this thread's stream on `device`; None: the default stream."""
        return self._thread.state.streams.get(device)

    def apply(self, stream: VirtualStream, *, inference: bool) -> _Token:
        """Make `stream` current for this thread; return the token that `undo` takes.

        Args:
            stream: an open stream.
            inference: whether torch's inference mode goes on with it.

        Raises:
            InvalidRequest: the stream is closed.
        """
        if stream.closed:
            raise InvalidRequest(f"{stream!r} is closed")
        mode = enter_inference() if inference else None
        state = self._thread.state
        device = stream.device
        token = (device, state.streams.get(device), mode)
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
        device, previous, mode = tokens.pop()
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
    __slots__ = ("streams", "tokens")

    def __init__(self) -> None:
        self.streams: dict[int, VirtualStream] = {}
        self.tokens: list[_Token] = []
