"""One running worker, as the tools layer sees it: requests in, replies out, none ever lost.

Two lanes lead to the worker. Requests and replies go over the work lane, in order; what must get
through while the tool is busy goes over the control lane. Every reply resolves a plain promise
straight from the lane's callback, which is what makes a small call cheap. A request whose worker
ends is answered with `WorkerDied`, after every reply that the worker still had sent.
"""

from __future__ import annotations

import itertools
import logging
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import anyio

from ..errors import InvalidRequest, WorkerDied, WorkerError
from ..ports import Codec, NestedCall, Preparation, Reply, WorkerSpec, WorkerStatistics
from ..promise import Promise, new_promise, resolve
from .conveyor import Conveyor
from .downlink import Downlink
from .exchange import Exchange
from .handshake import GREETING
from .lane import Lane
from .outbox import HEAVY, Outbox
from .output import Output
from .reactor import running_reactor
from .replies import read_reply
from .wire import Block, Frame, Kind, WireError, encode
from .worker_process import WorkerProcess

__all__ = ["ProcessChannel"]

log = logging.getLogger("asyncgpu.workers")


class ProcessChannel:
    """A worker process; implements `WorkerChannel`. Belongs to the event loop that started it."""

    def __init__(self, spec: WorkerSpec, process: WorkerProcess, codecs: Sequence[Codec]) -> None:
        self._spec = spec
        self._process = process
        self._tool = spec.name
        self._reactor = running_reactor()
        ends = process.ends
        self._exchange = Exchange(ends.outbound, ends.inbound, codecs)
        self._replies = Conveyor(self._reactor, f"asyncgpu-receive {spec.name}")
        self._requests = itertools.count(1)
        self._pending: dict[int, Promise[Any]] = {}
        self._exit_callbacks: list[Callable[[Exception], None]] = []
        self._progress_callbacks: list[Callable[[Promise[Reply], float, float], None]] = []
        self._ending = False
        self._hello: Promise[bytes | None] = new_promise()
        self._exited = anyio.Event()
        self._output = Output(self._reactor, spec.name, ends.stdout, ends.stderr)
        self._work = Lane(self._reactor, ends.work, self._on_work, self._on_end)
        self._control = Lane(self._reactor, ends.control, self._on_control, self._on_end)
        self._outbox = Outbox(
            self._reactor, spec.name, self._exchange, self._work, on_failed=self._refuse
        )
        self._nested = Downlink(
            self._reactor, spec.name, self._exchange, self._control, self._replies, self._pending
        )
        process.watch(self._reactor, self._on_process_exit)
        # The worker reads this after its hello; sent ahead, it costs no round trip.
        self._work.write(encode(Kind.SETUP, 0, pickle.dumps(process.setup, 5)))

    # -------------------------------------------------------------------- what it is

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it takes requests: it runs, and nobody has asked for its end."""
        return not self._ending

    @property
    def output_tail(self) -> tuple[str, ...]:
        """The last lines of its stderr, oldest first."""
        return self._output.tail

    @property
    def exchange(self) -> Exchange:
        """Its memory, for statistics and tests."""
        return self._exchange

    def on_exit(self, callback: Callable[[Exception], None]) -> None:
        """Call `callback(WorkerDied)` when it ends; at once if it already has."""
        if self._exited.is_set():
            callback(self._died())
        else:
            self._exit_callbacks.append(callback)

    def on_progress(self, callback: Callable[[Promise[Reply], float, float], None]) -> None:
        """Call `callback(promise, done, total)` when a tool reports progress of a request."""
        self._progress_callbacks.append(callback)

    def on_call(self, callback: Callable[[NestedCall], None]) -> None:
        """Call `callback` when the tool calls another one; without it, such calls are refused."""
        self._nested.on_call = callback

    # --------------------------------------------------------------------- requests

    async def hello(self) -> None:
        """Wait for the handshake.

        Raises:
            WorkerDied: the process ended before it.
            WorkerError: the worker is of another version.
        """
        greeting = await self._hello
        if greeting is None:
            raise self._died()
        if greeting != GREETING:
            raise WorkerError(
                f"worker {self.name!r} says {greeting.decode(errors='replace')!r} and this program "
                f"{GREETING.decode()!r}: install the same asyncgpu for both interpreters"
            )

    async def load(
        self, tool: object, devices: Sequence[str], preparation: Preparation | None = None
    ) -> Reply:
        self._tool = getattr(tool, "name", None) or type(tool).__qualname__
        prepared = None if preparation is None else tuple(preparation)
        return await self._request(Kind.LOAD, (tool, tuple(devices), prepared))

    async def move(self, devices: Sequence[str], indices: Sequence[int] = ()) -> Reply:
        return await self._request(Kind.MOVE, (tuple(devices), tuple(indices)))

    def submit(self, items: list[Any], *, seeds: list[int] | None = None) -> Promise[Reply]:
        return self._request(Kind.RUN, (items, seeds))

    def cancel(self, promise: Promise[Reply]) -> None:
        for request, pending in self._pending.items():
            if pending is promise:
                self._control.write(encode(Kind.CANCEL, request))
                return

    async def statistics(self) -> WorkerStatistics:
        """Ask the worker how it is; it answers while its tool is busy.

        Raises:
            WorkerDied: it has ended, or does so before it answers.
        """
        if self._exited.is_set():
            raise self._died()
        request = next(self._requests)
        self._control.write(encode(Kind.PING, request))
        reply: Reply = await self._expect(request)
        if reply.error is not None:
            raise reply.error
        return WorkerStatistics(*reply.value)

    # -------------------------------------------------------------------------- end

    async def stop(self, *, grace: float | None = None) -> None:
        self._begin_ending()
        try:
            with anyio.move_on_after(self._spec.stop_grace if grace is None else grace):
                await self._exited.wait()
        finally:
            self.kill()
        with anyio.move_on_after(1) as scope:
            await self._exited.wait()
        if scope.cancelled_caught:
            log.error("worker %s, process %s, does not die", self.name, self.pid)

    def kill(self) -> None:
        self._ending = True
        self._process.kill()

    async def wait_exited(self) -> None:
        """Wait until nothing of it is left: process, threads, descriptors."""
        await self._exited.wait()

    def _begin_ending(self) -> None:
        if not self._ending:
            self._ending = True
            self._control.write(encode(Kind.STOP, 0))
            self._work.end_writing()

    def _on_end(self, problem: WireError | None) -> None:
        """A lane has ended: the worker is about to, or has lost its mind."""
        if problem is not None:
            self._output.note(f"asyncgpu: {problem}")
        if problem is not None or not self._ending:
            self.kill()

    def _on_process_exit(self) -> None:
        self._ending = True
        self._work.drain()
        self._control.drain()
        # Behind the copies and replies that are still under way, so that each gets its answer.
        self._outbox.after_all(
            lambda: self._nested.after_all(
                lambda: self._replies.put(int, lambda _: self._finish(), heavy=False)
            )
        )

    def _finish(self) -> None:
        _guarded(self._output.close)
        self._work.close()
        self._control.close()
        self._outbox.close()
        self._nested.close()
        self._replies.close()
        self._exchange.close()
        self._process.ends.close_files()
        self._exited.set()
        resolve(self._hello, None)
        for request in tuple(self._pending):
            _guarded(self._settle, request, Reply(error=self._died()))
        callbacks, self._exit_callbacks = self._exit_callbacks, []
        for callback in callbacks:
            _guarded(callback, self._died())

    def _died(self) -> WorkerDied:
        return WorkerDied(self.name, self._process.exit_code, self._output.tail)

    # ---------------------------------------------------------------------- sending

    def _expect(self, request: int) -> Promise[Any]:
        promise = self._pending[request] = new_promise()
        return promise

    def _request(self, kind: int, value: object) -> Promise[Reply]:
        # A busy worker will not look at a new request before this turn of the loop has ended.
        soon = bool(self._pending)
        request = next(self._requests)
        promise = self._expect(request)
        if self._ending:
            self._settle(request, Reply(error=self._died()))
        else:
            try:
                self._outbox.send(kind, request, value, soon=soon)
            except Exception as error:  # noqa: BLE001 - picklers raise anything
                self._refuse(request, error)
        return promise

    def _refuse(self, request: int, cause: Exception) -> None:
        error = InvalidRequest(f"cannot be sent to worker {self.name!r}: {cause}")
        error.__cause__ = cause
        self._settle(request, Reply(error=error))

    # -------------------------------------------------------------------- receiving

    def _on_work(self, frame: Frame) -> None:
        if frame.kind == Kind.RELEASE:
            self._exchange.on_release(frame)
        elif frame.kind == Kind.HELLO:
            resolve(self._hello, bytes(cast("memoryview", frame.body)))
        elif (
            not frame.attachments and type(frame.body) is not Block and not self._replies.under_way
        ):
            self._settle(frame.request, read_reply(self._exchange, self._tool, frame))
        else:
            self._replies.put(
                partial(read_reply, self._exchange, self._tool, frame),
                partial(self._settle, frame.request),
                heavy=self._exchange.weigh(frame) > HEAVY,
            )

    def _on_control(self, frame: Frame) -> None:
        if frame.kind == Kind.PONG:
            self._settle(frame.request, Reply(value=_light(frame)))
        elif frame.kind == Kind.PROGRESS:
            self._tell_progress(frame)
        elif frame.kind == Kind.CALL:
            self._nested.take_call(frame)
        elif frame.kind == Kind.TOOL:
            self._nested.take_tool(frame)
        elif frame.kind == Kind.RELEASE:
            self._exchange.on_release(frame)

    def _tell_progress(self, frame: Frame) -> None:
        promise = self._pending.get(frame.request)
        if promise is not None:
            for callback in self._progress_callbacks:
                callback(promise, *_light(frame))

    def _settle(self, request: int, reply: Reply) -> None:
        promise = self._pending.pop(request, None)
        if promise is not None:
            resolve(promise, reply)
        if self._pending and self._exchange.inbound.any_done:
            # A worker with more to do may need its blocks at once; an idle one gets them with its
            # next request, which costs nothing.
            self._control.write_pieces(self._exchange.releases())


def _light(frame: Frame) -> Any:
    """Unpickle a frame that is never large."""
    return pickle.loads(cast("memoryview", frame.body))


def _guarded(callback: Callable[..., None], *arguments: Any) -> None:
    """Call somebody's callback; its failure must not cost the others theirs."""
    try:
        callback(*arguments)
    except Exception:
        log.exception("a worker's callback failed")
