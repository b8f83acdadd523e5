"""A worker in a thread keeps the contract of `WorkerChannel`, as far as a thread can."""

from __future__ import annotations

import logging
import threading
from functools import partial

import anyio
import pytest
from worker_tools import Calls, Echo, FailsToLoad, Moves, Named, UntilCancelled, Waits, fail

from asyncgpu import errors, worker
from asyncgpu.contexts.worker_rooms import ContextRooms
from asyncgpu.ports import WorkerSpec
from asyncgpu.workers.thread import ThreadTransport

pytestmark = pytest.mark.anyio


def our_threads():
    """Not those that trio and anyio keep for later."""
    return {thread.name for thread in threading.enumerate() if "asyncgpu" in thread.name}


@pytest.fixture
async def start(anyio_backend):
    """Start a worker on the CPU; afterwards no thread of it is left."""
    threads = our_threads()
    async with anyio.create_task_group() as tasks:
        transport = ThreadTransport(ContextRooms(None), tasks.start_soon)

        async def start(tool, **options):
            channel = await transport.start(WorkerSpec(**{"name": "worker-0", **options}))
            tool.indices = ()
            assert (await channel.load(tool, ["cpu"])).error is None
            return channel

        yield start
        await transport.aclose()
    assert our_threads() == threads


@pytest.fixture
def warned(anyio_backend):
    """An event, set when somebody is warned of an abandoned worker."""
    event, log = anyio.Event(), logging.getLogger("asyncgpu.workers")
    handler = logging.Handler()
    handler.emit = lambda record: event.set() if "is abandoned" in record.msg else None
    log.addHandler(handler)
    yield event
    log.removeHandler(handler)


async def test_requests_are_pipelined_and_answered_in_order(start):
    channel = await start(Echo())
    promises = [channel.submit([number]) for number in range(50)]
    assert [(await promise).value for promise in promises] == [[number] for number in range(50)]
    assert (await channel.statistics()).served == 51  # and the load


async def test_what_the_tool_raises_is_a_typed_error_with_its_traceback(start):
    channel = await start(Calls())
    reply = await channel.submit([(fail, LookupError, "nothing there")])
    assert isinstance(reply.error, errors.ToolFailed)
    assert (reply.error.tool, reply.error.exception_type) == ("Calls", "LookupError")
    assert reply.error.remote_traceback.startswith("Traceback")
    assert isinstance(reply.error.__cause__, LookupError)
    assert (await channel.submit([(len, "abc")])).value == [3]


async def test_it_calls_the_tool_by_its_name(start):
    channel = await start(Named())
    reply = await channel.submit("no list")
    assert reply.error is None
    assert await channel.move(["cpu"]) is not None


async def test_a_request_cancelled_before_it_begins_never_does(start, gate):
    channel = await start(Waits(gate))
    first, second = channel.submit(["wait"]), channel.submit(["x"])
    await gate.heard()
    channel.cancel(second)
    gate.open()
    assert (await first).value == [("wait", False)]
    assert "cancelled before it started" in str((await second).error)


async def test_a_request_that_runs_sees_that_it_is_cancelled(start, gate):
    channel = await start(UntilCancelled(gate))
    promise = channel.submit([1])
    await gate.heard()
    channel.cancel(promise)
    assert (await promise).value == ["cancelled"]


async def test_progress_is_told_with_its_request(start):
    channel = await start(Calls())
    seen = []
    channel.on_progress(lambda promise, done, total: seen.append((promise, done, total)))
    promise = channel.submit([(worker.progress, 2, 2)])
    await promise
    assert seen == [(promise, 2, 2)]


async def test_a_call_without_anybody_to_answer_it_is_refused(start):
    channel = await start(Calls())
    reply = await channel.submit([(worker.call, "a tool", [1])])
    assert "inside run" in str(reply.error)


async def test_the_tool_is_moved_and_learns_where_to(start):
    channel = await start(Moves())
    assert (await channel.move(["cpu"])).error is None
    [(places, devices)] = (await channel.submit([1])).value
    assert [place for place, _ in places] == ["cpu", "cpu"]
    assert devices == ("cpu",)


async def test_stopping_closes_the_tool_and_tells(start):
    closed = threading.Event()
    tool = Echo()
    tool.close = closed.set
    channel = await start(tool)
    ends = []
    channel.on_exit(ends.append)
    with anyio.fail_after(10):
        await channel.stop(grace=0)
    assert closed.is_set()
    assert not channel.alive
    [end] = ends
    assert isinstance(end, errors.WorkerDied)
    assert isinstance((await channel.submit([1])).error, errors.WorkerDied)
    with pytest.raises(errors.WorkerDied):
        await channel.statistics()


async def test_killed_it_answers_at_once_and_ends_when_its_call_returns(start, gate, warned):
    channel = await start(Waits(gate), stop_grace=0.0)
    running, queued = channel.submit(["wait"]), channel.submit(["x"])
    await gate.heard()
    channel.kill()
    for promise in (running, queued):
        assert isinstance((await promise).error, errors.WorkerDied)
    with anyio.fail_after(10):
        await warned.wait()
        gate.open()
        await channel.wait_exited()


async def test_a_stop_whose_grace_runs_out_leaves_it_with_a_warning(start, gate, caplog):
    channel = await start(Waits(gate))
    promise = channel.submit(["wait"])
    await gate.heard()
    with caplog.at_level(logging.WARNING), anyio.fail_after(10):
        await channel.stop(grace=0)
    assert isinstance((await promise).error, errors.WorkerDied)
    assert "worker-0 is abandoned" in caplog.text
    gate.open()
    with anyio.fail_after(10):
        await channel.wait_exited()


async def test_a_tool_that_does_not_load_is_a_reply(anyio_backend):
    async with anyio.create_task_group() as tasks:
        transport = ThreadTransport(ContextRooms(None), partial(tasks.start_soon))
        channel = await transport.start(WorkerSpec(name="worker-0"))
        tool = FailsToLoad()
        tool.indices = ()
        reply = await channel.load(tool, ["cpu"])
        assert isinstance(reply.error.__cause__, FileNotFoundError)
        await channel.stop()
        await transport.aclose()
        with pytest.raises(errors.WorkerError, match="closed"):
            await transport.start(WorkerSpec(name="worker-1"))
