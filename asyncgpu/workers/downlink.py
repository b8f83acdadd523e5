"""The program's end of a worker's nested calls: what they ask, and the way back for the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..errors import InvalidRequest, RequestError, WorkerError
from ..ports import NestedCall, Reply
from ..promise import Promise
from .conveyor import Conveyor
from .exchange import Exchange
from .failure import describe_failure
from .lane import Lane
from .outbox import HEAVY, Outbox
from .reactor import Reactor
from .uplink import OWN_TOOL
from .wire import Frame, Kind

__all__ = ["Downlink"]


class Downlink:
    """Nested calls of one worker; each gets exactly one answer, unless the worker ends first."""

    def __init__(
        self,
        reactor: Reactor,
        worker: str,
        exchange: Exchange,
        control: Lane,
        received: Conveyor,
        pending: Mapping[int, Promise[Reply]],
    ) -> None:
        """Take calls for nobody yet.

        Args:
            reactor: the event loop.
            worker: its name, for threads and errors.
            exchange: the program's end of the shared memory.
            control: the lane that answers go down.
            received: unpacks what comes from the worker, in order.
            pending: the worker's requests without a reply, by their numbers.
        """
        self.on_call: Callable[[NestedCall], None] | None = None
        """Is given every call; None: they are refused."""
        self._worker = worker
        self._exchange = exchange
        self._received = received
        self._pending = pending
        self._tools: dict[int, Any] = {OWN_TOOL: None}
        self._answers = Outbox(reactor, f"{worker} answers", exchange, control, self._unsendable)
        self._closed = False

    def take_tool(self, frame: Frame) -> None:
        """Unpickle a tool; in a thread, because that may import its module, and torch with it."""
        self._received.put(
            partial(_read, self._exchange, frame),
            partial(self._tools.__setitem__, frame.request),
            heavy=True,
        )

    def take_call(self, frame: Frame) -> None:
        """Unpickle a call and hand it on."""
        self._received.put(
            partial(_read, self._exchange, frame),
            partial(self._called, frame.request),
            heavy=self._exchange.weigh(frame) > HEAVY,
        )

    def after_all(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the answers under way have been written."""
        self._answers.after_all(callback)

    def close(self) -> None:
        """Send nothing any more; only after all."""
        self._closed = True
        self._answers.close()

    def _called(self, number: int, read: Any) -> None:
        answer = partial(self._answer, number)
        if isinstance(read, Exception):
            answer(Reply(error=_unreadable(read)))
            return
        request, tool_number, items = read
        within, tool = self._pending.get(request), self._tools[tool_number]
        if isinstance(tool, Exception):
            answer(Reply(error=_unreadable(tool)))
        elif within is None:
            answer(Reply(error=WorkerError("the call that this one was made from is over")))
        elif self.on_call is None:
            answer(Reply(error=RequestError("asyncgpu.worker.call works inside run() only")))
        else:
            self.on_call(NestedCall(within, tool, items, answer))

    def _answer(self, number: int, reply: Reply) -> None:
        if self._closed:
            return
        if reply.error is not None:
            self._send_failure(number, reply.error)
            return
        try:
            self._answers.send(Kind.ANSWER, number, (True, reply.value), soon=False)
        except Exception as error:  # noqa: BLE001 - picklers raise anything
            self._unsendable(number, error)

    def _unsendable(self, number: int, cause: Exception) -> None:
        error = InvalidRequest(f"an answer cannot be sent to worker {self._worker!r}: {cause}")
        self._send_failure(number, error)

    def _send_failure(self, number: int, error: Exception) -> None:
        failure = describe_failure(error, self._exchange.pickling.dumps)
        self._answers.send(Kind.ANSWER, number, (False, failure), soon=False)


def _read(exchange: Exchange, frame: Frame) -> Any:
    try:
        return exchange.unpack(frame)
    except Exception as error:  # noqa: BLE001 - somebody else's __setstate__, a missing module
        return error


def _unreadable(cause: Exception) -> InvalidRequest:
    return InvalidRequest(f"a nested call cannot be read in the program: {cause!r}")
