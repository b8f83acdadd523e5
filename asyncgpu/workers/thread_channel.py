"""A worker that is a thread of this process, as the tools layer sees it.

Requests are carried out by one task, in order; the tool's own code runs in the worker's room, which
is a thread on the stream and within the budget of an execution context. Nothing is pickled: items
and answers are the caller's own objects.

A thread cannot be killed. What `kill` and a grace that has run out do is to abandon it: its replies
become `WorkerDied`, its tool is told through ``asyncgpu.worker.cancelled()``, and the tool and its
context are closed when the call that runs has returned.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import anyio

from .. import ambient
from ..errors import RequestError, WorkerDied, WorkerError, WorkerStartTimeout
from ..home_loop import home_loop
from ..ports import (
    NestedCall,
    Preparation,
    Reply,
    WorkerRoom,
    WorkerRooms,
    WorkerSpec,
    WorkerStatistics,
)
from ..promise import Promise, new_promise, resolve
from ..units import parse_size
from .failure import failed_here
from .hosting import ToolHost
from .inside import Inside, enter_worker
from .local_calls import LocalCalls
from .runs import Runs

__all__ = ["ThreadChannel"]

log = logging.getLogger("asyncgpu.workers")

StartSoon = Callable[..., object]


class ThreadChannel:
    """A worker in a thread; implements `WorkerChannel`. Used in the loop that started it."""

    def __init__(self, spec: WorkerSpec, rooms: WorkerRooms, start_soon: StartSoon) -> None:
        """Describe it; `serve` is its life.

        Args:
            spec: its name and times; interpreter and environment are this process's.
            rooms: where it may run.
            start_soon: starts a task that the runtime owns.
        """
        self._spec = spec
        self._rooms = rooms
        self._start_soon = start_soon
        self._tool = spec.name
        self._loop = home_loop()
        self._host = ToolHost()
        self._runs = Runs(partial(self._loop.call, self._tell_progress))
        self._nested = LocalCalls(self._loop, self._runs, self._host, self._ask)
        self._inside = Inside(self._runs, self._nested)
        self._room: WorkerRoom | None = None
        self._vram: int | None = None
        self._numbers = itertools.count(1)
        self._queue: deque[_Request] = deque()
        self._pending: dict[int, Promise[Any]] = {}
        self._wake = anyio.Event()
        self._ending = False
        self._exited = anyio.Event()
        self._exit_callbacks: list[Callable[[Exception], None]] = []
        self._progress_callbacks: list[Callable[[Promise[Reply], float, float], None]] = []
        self._on_call: Callable[[NestedCall], None] | None = None

    # -------------------------------------------------------------------- what it is

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def pid(self) -> int | None:
        """None: it has no process of its own."""
        return None

    @property
    def alive(self) -> bool:
        """Whether it takes requests: nobody has asked for its end."""
        return not self._ending

    def on_exit(self, callback: Callable[[Exception], None]) -> None:
        """Call `callback(WorkerDied)` when nothing of it is left; at once if that is so."""
        if self._exited.is_set():
            callback(WorkerDied(self.name))
        else:
            self._exit_callbacks.append(callback)

    def on_progress(self, callback: Callable[[Promise[Reply], float, float], None]) -> None:
        """Call `callback(promise, done, total)` when a tool reports progress of a request."""
        self._progress_callbacks.append(callback)

    def on_call(self, callback: Callable[[NestedCall], None]) -> None:
        """Call `callback` when the tool calls another one; without it, such calls are refused."""
        self._on_call = callback

    # --------------------------------------------------------------------- requests

    async def load(
        self, tool: Any, devices: Sequence[str], preparation: Preparation | None = None
    ) -> Reply:
        """Open the worker's room on the tool's devices and load it there.

        Args:
            tool: the tool; its `indices` say which device it has.
            devices: what torch calls them.
            preparation: not called: it would change this whole process.
        """
        self._tool = getattr(tool, "name", None) or type(tool).__qualname__
        return await self._request(partial(self._load, tool, tuple(devices)))

    async def move(self, devices: Sequence[str], indices: Sequence[int] = ()) -> Reply:
        return await self._request(partial(self._move, tuple(devices), tuple(indices)))

    def submit(self, items: list[Any], *, seeds: list[int] | None = None) -> Promise[Reply]:
        # A list of the tool's own: it may take it apart, and the caller may run it again.
        return self._request(partial(self._in_room, self._host.run, list(items), seeds))

    def cancel(self, promise: Promise[Reply]) -> None:
        for number, pending in self._pending.items():
            if pending is promise:
                self._runs.cancel(number)
                return

    async def statistics(self) -> WorkerStatistics:
        """Return how it is; its host memory is this process's, so none is told.

        Raises:
            WorkerDied: it has ended.
        """
        if self._exited.is_set():
            raise WorkerDied(self.name)
        return WorkerStatistics(self._runs.served, self._runs.busy_seconds(), 0)

    # -------------------------------------------------------------------------- end

    async def stop(self, *, grace: float | None = None) -> None:
        """Close the tool and the room; after `grace` seconds plus one, abandon it with a warning.

        An abandoned worker ends when the call that it is in returns.
        """
        self._begin_ending()
        try:
            with anyio.move_on_after(self._spec.stop_grace if grace is None else grace):
                await self._exited.wait()
        finally:
            self._give_up()
        await self._warn_after(1)

    def kill(self) -> None:
        """Abandon it: pending replies become `WorkerDied` now, its call runs on until it returns.

        Where that takes longer than the worker's grace, a warning says so.
        """
        if not self._exited.is_set():
            self._give_up()
            self._start_soon(self._warn_after, self._spec.stop_grace)

    async def wait_exited(self) -> None:
        """Wait until nothing of it is left: tool, room, thread."""
        await self._exited.wait()

    def _begin_ending(self) -> None:
        if not self._ending:
            self._ending = True
            self._runs.stop()
            self._nested.abandon()
            self._wake.set()

    def _give_up(self) -> None:
        self._begin_ending()
        for number in tuple(self._pending):
            self._settle(number, Reply(error=WorkerDied(self.name)))

    async def _warn_after(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._exited.wait()
        if not self._exited.is_set():
            log.warning(
                "worker %s is abandoned: its call has not returned, and a thread cannot be killed; "
                "its tool and context are closed when it does",
                self.name,
            )

    # ---------------------------------------------------------------------- serving

    async def serve(self) -> None:
        """Carry out one request after the other, until `stop` or `kill`; then close everything."""
        # Its task was started by somebody's call, and is to be part of nobody's session.
        ambient.session.set(None)
        ambient.claims.set(frozenset())
        try:
            while (request := await self._next()) is not None:
                await self._answer(request)
                # An idle worker must not keep the items of its last request alive.
                del request
            await self._close()
        finally:
            self._finish()

    async def _next(self) -> _Request | None:
        while not self._queue:
            if self._ending:
                return None
            self._wake = anyio.Event()
            await self._wake.wait()
        return self._queue.popleft()

    async def _answer(self, request: _Request) -> None:
        if not self._runs.begin(request.number):
            error = WorkerError(f"{self._tool}: cancelled before it started")
            self._settle(request.number, Reply(error=error))
            return
        reply = await self._carry_out(request)
        self._runs.end()
        self._settle(request.number, reply)

    async def _carry_out(self, request: _Request) -> Reply:
        try:
            value, error = await request.perform()
        except (WorkerStartTimeout, WorkerDied) as late:
            return Reply(error=late)
        except Exception as raised:  # noqa: BLE001 - whatever the tool raises is its answer
            value, error = None, raised
        seconds = self._runs.elapsed()
        if error is None:
            return Reply(value, None, seconds)
        if self._room is not None and not self._room.open:
            # Somebody has closed its context: as good as a death, and a new worker has a new one.
            self._begin_ending()
            return Reply(error=WorkerDied(self.name))
        return Reply(error=failed_here(self._tool, _from_the_thread(error)), seconds=seconds)

    def _finish(self) -> None:
        self._ending = True
        self._exited.set()
        self._give_up()
        callbacks, self._exit_callbacks = self._exit_callbacks, []
        for callback in callbacks:
            try:
                callback(WorkerDied(self.name))
            except Exception:
                log.exception("a worker's callback failed")

    # ------------------------------------------------------------------ the requests

    async def _load(self, tool: Any, devices: tuple[str, ...]) -> _Outcome:
        vram = getattr(tool, "vram", None)
        self._vram = None if vram is None else parse_size(vram, what="vram")
        self._room = await self._open_room(tuple(tool.indices))
        return await self._in_room(self._host.load, tool, devices)

    async def _move(self, devices: tuple[str, ...], indices: tuple[int, ...]) -> _Outcome:
        """Move the tool: to the CPU in the room that it leaves, else in the one that it goes to."""
        old = self._room
        assert old is not None
        new = await self._open_room(indices)
        left = new
        self._room = new if indices else old
        try:
            outcome = await self._in_room(self._host.move, devices, indices)
            if outcome[1] is None:
                left = old
            return outcome
        finally:
            self._room = old if left is new else new
            # Not for ever: a runtime that closes cancels this while `to` may still be running.
            with anyio.move_on_after(self._spec.stop_grace, shield=True):
                await left.aclose()

    async def _open_room(self, indices: tuple[int, ...]) -> WorkerRoom:
        limit = self._spec.start_timeout
        try:
            return await self._rooms.open(self.name, indices, vram=self._vram, timeout=limit)
        except TimeoutError as error:
            raise WorkerStartTimeout(
                f"worker {self.name!r} was not ready within {limit:g} s: {error}"
            ) from error

    async def _in_room(self, fn: Callable[..., Any], *args: Any) -> _Outcome:
        assert self._room is not None
        outcome: _Outcome = await self._room.call(partial(_perform, self._inside, fn, args))
        return outcome

    async def _close(self) -> None:
        if self._room is None:
            return
        try:
            if self._room.open:
                await self._in_room(self._host.close)
        except Exception:
            log.exception("%s: close() failed", self.name)
        await self._room.aclose()

    # --------------------------------------------------------------------- helpers

    def _request(self, perform: Callable[[], Awaitable[_Outcome]]) -> Promise[Reply]:
        number = next(self._numbers)
        promise: Promise[Reply] = new_promise()
        if self._ending:
            resolve(promise, Reply(error=WorkerDied(self.name)))
        else:
            self._pending[number] = promise
            self._queue.append(_Request(number, perform))
            self._wake.set()
        return promise

    def _settle(self, number: int, reply: Reply) -> None:
        promise = self._pending.pop(number, None)
        if promise is not None:
            resolve(promise, reply)

    def _tell_progress(self, number: int, done: float, total: float) -> None:
        promise = self._pending.get(number)
        if promise is not None:
            for callback in self._progress_callbacks:
                callback(promise, done, total)

    def _ask(
        self, number: int, tool: Any, items: list[Any], answer: Callable[[Reply], None]
    ) -> None:
        promise = self._pending.get(number)
        if promise is None:
            answer(Reply(error=WorkerError("the call that this one was made from is over")))
        elif self._on_call is None:
            answer(Reply(error=RequestError("asyncgpu.worker.call works inside run() only")))
        else:
            self._on_call(NestedCall(promise, tool, items, answer))


_Outcome = tuple[Any, BaseException | None]


class _Request(NamedTuple):
    number: int
    perform: Callable[[], Awaitable[_Outcome]]


def _from_the_thread(error: BaseException) -> BaseException:
    """Leave out of the traceback how the call came to its thread."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code is not _perform.__code__:
        trace = trace.tb_next
    return error if trace is None else error.with_traceback(trace)


def _perform(worker: Inside, fn: Callable[..., Any], args: tuple[Any, ...]) -> _Outcome:
    """Call `fn`, in the worker's thread."""
    enter_worker(worker)
    try:
        return fn(*args), None
    except Exception:
        raise  # through the room, which says out of memory in our words
    except BaseException as error:  # noqa: BLE001 - SystemExit must not end the runtime's tasks
        return None, error
