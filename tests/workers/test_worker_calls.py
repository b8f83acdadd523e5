"""Nested calls on the wire: up the control lane, and back, while the tool waits."""

from __future__ import annotations

import anyio
import pytest
from worker_tools import Bare, Echo, Named

from asyncgpu.errors import InvalidRequest, RequestError, ToolFailed, WorkerDied, WorkerError
from asyncgpu.ports import Reply

pytestmark = pytest.mark.anyio


class Caller(Bare):
    """Passes its items on to another tool, itself or a `Named`; an error is the answer."""

    def __init__(self, itself=False):
        self.itself = itself

    def run(self, items):
        from asyncgpu import worker

        try:
            return worker.call(self if self.itself else Named(), items)
        except Exception as error:
            return [error] * len(items)


class TwoCalls(Bare):
    """Two tools of one configuration, made anew for each call."""

    def run(self, items):
        from asyncgpu import worker

        return [worker.call(Named(), [item])[0] for item in items]


class CallsTooLate(Bare):
    """Leaves a thread behind that calls when `run` has ended."""

    def __init__(self, gate):
        self.gate = gate
        self.outcome = None

    def run(self, items):
        import threading

        from asyncgpu import worker

        if self.outcome is not None:
            return [self.outcome] * len(items)

        def call():
            self.gate.wait()
            try:
                worker.call(Named(), [1])
            except Exception as error:
                self.outcome = error
            self.gate.say(b"y")

        threading.Thread(target=call).start()
        return items


class Calls:
    """What came up."""

    def __init__(self, channel):
        self.taken = []
        self.arrived = anyio.Event()
        channel.on_call(self.take)

    def take(self, call):
        self.taken.append(call)
        self.arrived.set()

    async def first(self):
        with anyio.fail_after(10):
            await self.arrived.wait()
        return self.taken[0]


async def test_a_call_comes_up_and_its_answer_goes_down(start):
    channel = await start(Caller())
    calls = Calls(channel)
    promise = channel.submit([1, 2])
    call = await calls.first()
    assert call.within is promise
    assert isinstance(call.tool, Named)
    assert call.items == [1, 2]
    call.answer(Reply(["a", "b"]))
    assert (await promise).value == ["a", "b"]


async def test_the_workers_own_tool_is_not_sent(start):
    channel = await start(Caller(itself=True))
    calls = Calls(channel)
    promise = channel.submit([1])
    call = await calls.first()
    assert call.tool is None
    call.answer(Reply([2]))
    assert (await promise).value == [2]


async def test_tools_of_one_configuration_are_one_tool(start):
    channel = await start(TwoCalls())
    seen = []
    channel.on_call(lambda call: (seen.append(call.tool), call.answer(Reply(call.items))))
    assert (await channel.submit([1, 2])).value == [1, 2]
    assert seen[0] is seen[1]


async def test_a_worker_that_waits_answers_questions(start):
    channel = await start(Caller())
    calls = Calls(channel)
    promise = channel.submit([1])
    call = await calls.first()
    statistics = await channel.statistics()
    assert statistics.busy_seconds > 0
    call.answer(Reply([1]))
    await promise
    assert (await channel.statistics()).busy_seconds is None


async def test_megabytes_go_both_ways(start):
    import numpy as np

    channel = await start(Caller())
    channel.on_call(lambda call: call.answer(Reply([call.items[0] + 1])))
    array = np.zeros(3 << 20, np.uint8)
    for _ in range(5):
        [answer] = (await channel.submit([array])).value
        assert answer.shape == array.shape
        assert answer.all()
    del answer
    await channel.statistics()
    assert channel.exchange.outbound.used <= 3 * (3 << 20)


async def test_an_error_is_raised_as_it_is(start):
    channel = await start(Caller())
    error = ToolFailed("inner", "ValueError", "no", "the remote traceback")
    channel.on_call(lambda call: call.answer(Reply(error=error)))
    [raised] = (await channel.submit([1])).value
    assert type(raised) is ToolFailed
    assert raised.remote_traceback == "the remote traceback"


async def test_an_error_that_cannot_cross_is_described(start):
    class Unpicklable(Exception):
        def __reduce__(self):
            raise TypeError("not me")

    channel = await start(Caller())
    channel.on_call(lambda call: call.answer(Reply(error=Unpicklable("what happened"))))
    [raised] = (await channel.submit([1])).value
    assert type(raised) is ToolFailed
    assert "what happened" in str(raised)


async def test_an_answer_that_cannot_cross_is_an_error(start):
    channel = await start(Caller())
    channel.on_call(lambda call: call.answer(Reply([(item for item in ())])))
    [raised] = (await channel.submit([1])).value
    assert type(raised) is InvalidRequest


async def test_where_nobody_takes_calls_they_are_refused(start):
    channel = await start(Caller())
    [raised] = (await channel.submit([1])).value
    assert type(raised) is RequestError


async def test_a_cancelled_request_can_call_no_more(start, gate):
    channel = await start(WaitsThenCalls(gate))
    promise = channel.submit([1])
    await gate.heard()
    channel.cancel(promise)
    await channel.statistics()  # behind the cancel, on the same lane
    gate.open()
    [raised] = (await promise).value
    assert type(raised) is WorkerError
    assert "was cancelled" in str(raised)


class WaitsThenCalls(Caller):
    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    def run(self, items):
        self.gate.wait()
        return super().run(items)


async def test_a_thread_that_outlives_its_request_is_told(start, gate):
    channel = await start(CallsTooLate(gate))
    calls = Calls(channel)
    assert (await channel.submit([1])).value == [1]
    await gate.heard()
    gate.open()
    await gate.heard()
    [raised] = (await channel.submit([1])).value
    assert type(raised) is RequestError
    assert not calls.taken


async def test_an_answer_to_a_worker_that_has_ended_is_harmless(start):
    channel = await start(Caller())
    calls = Calls(channel)
    promise = channel.submit([1])
    call = await calls.first()
    channel.kill()
    assert isinstance((await promise).error, WorkerDied)
    call.answer(Reply([1]))
    await channel.wait_exited()
    call.answer(Reply([2]))


async def test_stopping_a_worker_ends_its_wait(start):
    channel = await start(Caller())
    calls = Calls(channel)
    promise = channel.submit([1])
    await calls.first()
    await channel.stop(grace=10)
    # It went on by itself, within the grace: it answered before it ended.
    [raised] = (await promise).value
    assert type(raised) is WorkerError


async def test_the_calls_of_an_echo_are_none(start):
    channel = await start(Echo())
    calls = Calls(channel)
    assert (await channel.submit([1])).value == [1]
    assert not calls.taken
