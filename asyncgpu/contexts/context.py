"""`ExecutionContext`: a named share of one device inside this process."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from ..errors import InvalidRequest, OutOfDeviceMemory, VRAMBudgetExceeded
from ..policy.context_limits import ContextLimits
from ..policy.context_state import ContextState
from ..policy.qos import QoSPolicy
from ..ports import Driver, DriverStream
from ..units import Size
from .adopt import adopted
from .bound import bound_to
from .carried import CarriedSession
from .closing import Claim, Closing, StartSoon
from .core import ContextCore
from .device_turns import DeviceTurns
from .drive import run_driven
from .events import DeviceEvent, wait_on_device
from .memory import ContextMemory
from .out_of_memory import translating
from .reservation import Reservation
from .session import context_session
from .session_turn import take_turn_for_call
from .spans import Spans, SpanSink
from .stream import Stream
from .thread import ContextThread
from .turns import Turns
from .usage import ContextUsage

__all__ = ["ExecutionContext"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class ExecutionContext:
    """A stream, a VRAM budget and a QoS class under one name. ``async with`` closes it.

    Made by `create_context`. GPU work goes to its stream inside its sessions and in what `run`,
    `run_sync` and `bind` call; results of `run` and `run_sync` are ready when they return.
    """

    def __init__(
        self,
        name: str,
        limits: ContextLimits,
        *,
        driver: Driver,
        stream: DriverStream,
        memory: ContextMemory,
        device: int,
        claim: Claim,
        start_soon: StartSoon,
        max_concurrent_sessions: int | None = None,
        device_turns: DeviceTurns | None = None,
        timeline: SpanSink | None = None,
        on_closed: Callable[[], object] | None = None,
    ) -> None:
        """Open it; `ContextRegistry` does.

        Args:
            name: its name in the runtime.
            limits: its class and VRAM limits.
            driver: the driver of its device.
            stream: a stream of its own, closed with it.
            memory: its share of the memory of its device, closed with it.
            device: logical index of its device.
            claim: its share of the device, released when it closes.
            start_soon: starts a task under the runtime's supervision.
            max_concurrent_sessions: sessions at once, others wait in line; None: no limit.
            device_turns: the turns of its device, over all contexts; None: no limit there.
            timeline: where its sessions and calls appear; None: nowhere.
            on_closed: called once it is closed.
        """
        self._core = ContextCore(
            name,
            driver=driver,
            stream=stream,
            memory=memory,
            turns=Turns(
                name,
                device_turns or DeviceTurns(),
                limit=max_concurrent_sessions,
                qos=limits.qos,
            ),
            spans=Spans(timeline, f"cuda:{device} {name}"),
        )
        memory.context = self
        self._limits = limits
        self._device = device
        self._stream = Stream(self._core)
        self._thread = ContextThread(self._core)
        self._closing = Closing(self._core, self._thread, claim, start_soon, on_closed)

    @property
    def name(self) -> str:
        return self._core.name

    @property
    def device(self) -> str:
        """The logical name of its device: ``"cuda:0"``."""
        return f"cuda:{self._device}"

    @property
    def torch_device(self) -> str:
        """What torch calls its device: ``"cuda:0"``, or ``"cpu"`` for a virtual one."""
        return self._core.driver.torch_device(self._device)

    @property
    def qos(self) -> QoSPolicy:
        return self._limits.qos

    @property
    def max_vram(self) -> int | None:
        """The most it may use, in bytes; None: no cap of its own."""
        return self._limits.max_vram

    @property
    def base_vram(self) -> int:
        """What it can rely on, in bytes."""
        return self._limits.base_vram

    @property
    def stream(self) -> Stream:
        return self._stream

    @property
    def state(self) -> ContextState:
        """RUNNING while a session, a call or a drain is under way."""
        return self._core.activity.state

    @property
    def budget_enforced(self) -> bool:
        """Whether an allocation over `max_vram` is refused where it is made.

        If not, for want of the native allocator, it is found out when the work ends.
        """
        return self._core.memory.enforced

    def session(
        self, *, synchronize: bool = True, inference: bool = False, timeout: float | None = None
    ) -> context_session:
        """Return a `context_session` of this context."""
        return context_session(self, synchronize=synchronize, inference=inference, timeout=timeout)

    async def run(
        self, async_fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Await ``async_fn(*args, **kwargs)``, every step of it on this context's stream.

        It is a session around the call. It also works on an event loop that cannot be hooked;
        there, child tasks of `async_fn` do not follow.

        Raises:
            ContextClosed: the context is closed.
            DeviceLost: the work has failed, or a step could not be given the stream.
        """
        self._core.check_open()
        if not self._core.can_hook():
            return await run_driven(self, async_fn, args, kwargs)
        async with self.session():
            return await async_fn(*args, **kwargs)

    async def run_sync(
        self, fn: Callable[..., R], /, *args: Any, retries: int = 0, **kwargs: Any
    ) -> R:
        """Call ``fn(*args, **kwargs)`` in this context's own thread, on its stream.

        This is how to run real models: whatever blocks in them does not block the event loop. The
        function sees the caller's ContextVars. Cancelling returns at once, but a function that runs
        cannot be stopped: the context stays RUNNING until it has ended. Where sessions take turns,
        so does the call, unless it is made inside a session of this context.

        Args:
            fn: the function; one runs at a time.
            args: its positional arguments.
            retries: how often to call it again when it runs out of memory; before that, caches
                are dropped and memory pressure handlers asked.
            kwargs: its keyword arguments.

        Raises:
            ContextClosed: the context is closed.
            DeviceLost: the stream could not be made current, or the work has failed.
            InvalidRequest: `fn` is a coroutine function, or `retries` is not a number of times.
            OutOfDeviceMemory: the device was full.
            VRAMBudgetExceeded: this context's own budget was.
        """
        if inspect.iscoroutinefunction(fn):
            raise InvalidRequest(f"run_sync: {_name(fn)} is a coroutine function; use `run`")
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise InvalidRequest(f"retries: {retries!r} is not 0 or more")
        self._core.check_open()
        call = functools.partial(fn, *args, **kwargs)
        if not retries:
            return await self._call(fn, call)
        with self._core.memory.keeping_lifts():
            for _ in range(retries):
                try:
                    return await self._call(fn, call)
                except (VRAMBudgetExceeded, OutOfDeviceMemory) as error:
                    await self._core.memory.make_room(error)
            return await self._call(fn, call)

    async def _call(self, fn: Callable[..., object], call: Callable[[], R]) -> R:
        await self._core.memory.device.capacity.refresh()
        session = CarriedSession(self._core, self, inference=False)
        session.turn = await take_turn_for_call(session)
        with translating(self._core.memory):
            result: R = await self._thread.call(session, f"run_sync({_name(fn)})", call)
            return result

    def bind(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Return `fn`, to be called in a thread that is not ours: there it runs on this stream.

        It does not wait for the device work, and takes no turn.

        Raises:
            InvalidRequest: `fn` is a coroutine function.
        """
        if inspect.iscoroutinefunction(fn):
            raise InvalidRequest(f"bind: {_name(fn)} is a coroutine function; use `run`")
        return bound_to(self, fn)

    async def synchronize(self) -> None:
        """Wait until all the work that its stream has now is done.

        Raises:
            ContextClosed: the context is closed.
            DeviceLost: the device has had a fault.
        """
        await self._stream.wait()

    def record_event(self) -> DeviceEvent:
        """Return an event behind all the work that its stream has now.

        Raises:
            ContextClosed: the context is closed.
            DeviceLost: the device has had a fault.
        """
        return DeviceEvent(self._core, self._core.record())

    def wait_event(self, event: DeviceEvent) -> None:
        """Let later work of this context wait, on the device, for `event`; returns at once.

        The event may be of any context and any device of this runtime.

        Raises:
            ContextClosed: this context is closed.
            DeviceLost: a device has had a fault.
            InvalidRequest: it is no event, or one of another runtime.
        """
        wait_on_device(self._core, event)

    def adopt(self, tensors: T, event: DeviceEvent | None = None) -> T:
        """Take over tensors that another context has made, without a copy; returns at once.

        Later work of this context waits, on the device, for `event`. The producer may drop its
        tensors at once: their memory is given back when the last alias and its views are gone and
        the work that this context's stream had at that moment is done. Until then it stays
        charged to the producer. Writing to an alias writes to the producer's tensor.

        Args:
            tensors: a tensor, or lists, tuples, named tuples, dictionaries and dataclasses of
                them, nested at will; anything else in them is passed on as it is.
            event: behind the work that makes them; None: they are ready.

        Returns:
            The same tree with aliases; containers in which something changes are copied.

        Raises:
            ContextClosed: this context is closed.
            DeviceLost: a device has had a fault.
            InvalidRequest: a tensor is on another device, requires grad, or has no plain memory
                of its own, such as a sparse one; `event` is no event, or one of another runtime.
                Nothing was touched.
        """
        return adopted(self._core, self._device, tensors, event)

    def usage(self) -> ContextUsage:
        """Return a snapshot of its memory. Of a closed context: what is still alive."""
        return self._core.memory.usage()

    def reserve(self, nbytes: Size, *, timeout: float | None = None) -> Reservation:
        """Set memory aside for the length of an ``async with`` block; entering waits for it.

        It is room for `nbytes` more than this context uses, and has set aside, when the block is
        entered: nobody else can take it.

        Args:
            nbytes: bytes, or a size such as ``"2GiB"``; above 0.
            timeout: seconds to wait for room on the device; None: no limit.

        Raises:
            InvalidRequest: `nbytes` or `timeout` means nothing. Entering the block raises:
            ContextClosed: the context is closed.
            InfeasibleRequest: more than this program may use of the device.
            TimeoutError: there was no room on the device in time.
            VRAMBudgetExceeded: more than `max_vram` leaves, and no handler allowed it.
        """
        return Reservation(self, nbytes, timeout=timeout)

    async def aclose(self, *, timeout: float | None = None) -> None:
        """Refuse new work, drain, and give everything back; idempotent.

        After a timeout the context still refuses new work, and `aclose` may be called again.

        Args:
            timeout: seconds for the drain; None: no limit.

        Raises:
            InvalidRequest: a bad `timeout`.
            RequestError: called in a session of this context, for which it would wait for ever.
            TimeoutError: something still runs; the message says what.
        """
        await self._closing.aclose(timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; a cancelled task does not wait, and the runtime closes the context for it."""
        await self._closing.leave(error)

    def __repr__(self) -> str:
        return f"<ExecutionContext {self.name!r} on {self.device}, {self.state.value}>"


def _name(fn: Callable[..., object]) -> str:
    # Not the representation: that of a model is a page long.
    return getattr(fn, "__name__", None) or type(fn).__name__
