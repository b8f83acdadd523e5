"""Acceptance scenarios of sessions, of waiting for results, and of streams, named by their rows.

The rows speak of futures; ours are the awaits of `run_sync` and of events. Rows that the other
files of this folder hold under names of their own are not repeated.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref

import anyio
import pytest

from asyncgpu.contexts.calls import get_stream, record_event, wait_event
from asyncgpu.contexts.current import current_context
from asyncgpu.contexts.session import context_session
from asyncgpu.errors import SessionMisuse
from asyncgpu.policy.context_state import ContextState

pytestmark = pytest.mark.anyio


async def test_b4_two_contexts_in_one_statement_are_both_running(registry, where):
    a, b = await registry.create("a"), await registry.create("b")
    async with context_session(a), context_session(b):
        assert (a.state, b.state) == (ContextState.RUNNING, ContextState.RUNNING)
        assert where() == b.stream.id, "the last one is current"
    assert (a.state, b.state) == (ContextState.IDLE, ContextState.IDLE)


async def test_b6_of_two_tasks_in_one_context_each_has_its_own_session(ctx, where):
    first_left = anyio.Event()

    async def first():
        async with ctx.session():
            await anyio.sleep(0)
        first_left.set()

    async def second():
        async with ctx.session():
            await first_left.wait()
            assert current_context() is ctx
            assert where() == ctx.stream.id
            assert ctx.state is ContextState.RUNNING

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second)
        tasks.start_soon(first)
    assert ctx.state is ContextState.IDLE


async def test_b17_a_session_that_is_begun_or_ended_twice_says_so_and_goes_on(ctx, where):
    session = ctx.session()
    with pytest.raises(SessionMisuse, match="not open"):
        await session.__aexit__(None, None, None)
    async with session:
        with pytest.raises(SessionMisuse, match="entered once"):
            await session.__aenter__()
        assert where() == ctx.stream.id
    with pytest.raises(SessionMisuse, match="not open"):
        await session.__aexit__(None, None, None)
    assert (where(), ctx.state) == (None, ContextState.IDLE)


async def test_c9_while_one_waits_for_the_device_the_loop_goes_on_and_the_processor_rests(
    ctx, new_gate
):
    gate, beats = new_gate(), []
    gate.hold(ctx)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ctx.synchronize)
        began = time.process_time()
        for _ in range(20):
            await anyio.sleep(0.01)
            beats.append(1)
        spent = time.process_time() - began
        gate.open()
    assert len(beats) == 20
    assert spent < 0.15, "a wait that polls would have burnt all of the 0.2 s"


async def test_c14_a_wait_that_was_given_up_in_time_can_be_taken_up_again(ctx, new_gate):
    gate = new_gate()
    gate.hold(ctx)
    event = ctx.record_event()
    for _ in range(2):
        with pytest.raises(TimeoutError), anyio.fail_after(0.005):
            await event.wait()
    assert not event.done()
    gate.open()
    with anyio.fail_after(30):
        await event.wait()
    assert event.done()


async def test_c15_a_thread_that_waits_does_not_keep_the_interpreter_from_opening_the_gate(
    ctx, new_gate
):
    gate, ended = new_gate(), threading.Event()
    gate.hold(ctx)

    def wait():
        get_stream(ctx).synchronize()
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    await anyio.to_thread.run_sync(gate.reached.wait)
    assert not ended.is_set()
    gate.open()
    await anyio.to_thread.run_sync(thread.join)
    assert ended.is_set()


async def test_c17_what_is_finished_is_released(ctx):
    class Result:
        pass

    results = []

    def make():
        result = Result()
        results.append(weakref.ref(result))
        return result

    for _ in range(300):
        await ctx.run_sync(make)
        ctx.record_event()
    gc.collect()
    assert sum(result() is not None for result in results) <= 1
    core = ctx._core
    assert len(core.waiter._unreached) <= 2
    assert core.activity.under_way() == []


async def test_s1_a_context_has_one_stream_and_it_is_its_own(registry):
    a, b = await registry.create("a"), await registry.create("b")
    assert get_stream(a) is get_stream(a)
    assert get_stream(a).id != get_stream(b).id


async def test_s5_waiting_for_an_event_that_is_reached_costs_the_stream_nothing(registry):
    producer, consumer = await registry.create("p"), await registry.create("c")
    event = record_event(producer)
    await event
    wait_event(consumer, event)
    assert record_event(consumer).done(), "its stream has nothing to wait for"
