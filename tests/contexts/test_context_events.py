"""Events: producer and consumer on the device, and awaiting from the host."""

from __future__ import annotations

from itertools import pairwise

import anyio
import pytest

from asyncgpu.contexts.calls import get_context_usage, get_stream, record_event, wait_event
from asyncgpu.errors import ContextClosed, DeviceLost, RequestError

pytestmark = pytest.mark.anyio


def put(ctx, log, what):
    """Put a note on the stream of `ctx`: it is written when the stream comes to it."""
    ctx.stream.driver_stream.enqueue(lambda: log.append(what))


async def test_a_chain_over_three_contexts_runs_in_its_order(registry, new_gate):
    contexts = [await registry.create(name) for name in "abc"]
    gate, log = new_gate(), []
    gate.hold(contexts[0])
    for earlier, later in pairwise(contexts):
        put(earlier, log, earlier.name)
        wait_event(later, record_event(earlier))
    put(contexts[2], log, "c")
    assert log == []
    gate.open()
    await contexts[2].synchronize()
    assert log == ["a", "b", "c"]


async def test_control_without_the_wait_the_consumer_overtakes(registry, new_gate):
    """The chain above would not show an order if streams kept one by themselves."""
    a, b = await registry.create("a"), await registry.create("b")
    gate, log = new_gate(), []
    gate.hold(a)
    put(a, log, "a")
    put(b, log, "b")
    await b.synchronize()
    assert log == ["b"]
    gate.open()
    await a.synchronize()
    assert log == ["b", "a"]


async def test_waiting_for_an_event_of_another_device_is_allowed(registry, new_gate):
    a = await registry.create("a", device="cuda:0")
    b = await registry.create("b", device="cuda:1")
    gate, log = new_gate(), []
    gate.hold(a)
    put(a, log, "a")
    b.wait_event(a.record_event())
    put(b, log, "b")
    gate.open()
    await b.synchronize()
    assert log == ["a", "b"]


async def test_an_event_is_done_when_the_work_before_it_is(ctx, new_gate):
    first, second = new_gate(), new_gate()
    first.hold(ctx)
    early = ctx.record_event()
    second.hold(ctx)
    late = ctx.record_event()
    assert not early.done()
    first.open()
    await early
    assert early.done()
    assert not late.done()
    second.open()
    await late.wait()
    assert late.done()
    assert late.elapsed_since(early) >= 0
    assert early.elapsed_since(late) <= 0


async def test_elapsed_time_needs_two_events_that_are_done(ctx, new_gate):
    done = ctx.record_event()
    gate = new_gate()
    gate.hold(ctx)
    pending = ctx.record_event()
    with pytest.raises(RequestError, match="await them first"):
        pending.elapsed_since(done)
    with pytest.raises(RequestError, match="await them first"):
        done.elapsed_since(pending)


async def test_an_event_of_a_closed_context_is_done(ctx, registry):
    event = ctx.record_event()
    await ctx.aclose()
    assert event.done()
    await event
    other = await registry.create("b")
    other.wait_event(event)
    await other.synchronize()


async def test_a_closed_context_records_and_waits_no_more(ctx, registry):
    other = await registry.create("b")
    event = other.record_event()
    await ctx.aclose()
    with pytest.raises(ContextClosed):
        ctx.record_event()
    with pytest.raises(ContextClosed):
        ctx.wait_event(event)
    with pytest.raises(ContextClosed):
        await ctx.synchronize()


async def test_a_lost_device_ends_every_wait(driver, ctx, new_gate):
    gate = new_gate()
    gate.hold(ctx)
    events = [ctx.record_event() for _ in range(3)]
    lost = []

    async def wait(event):
        with pytest.raises(DeviceLost, match="scripted") as caught:
            await event
        lost.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for event in [*events, *events]:
            tasks.start_soon(wait, event)
        await anyio.wait_all_tasks_blocked()
        driver.script.lose_device(0)
        gate.open()
    assert len({id(error) for error in lost}) == 6, "each waiting task has an exception of its own"
    with pytest.raises(DeviceLost):
        events[0].done()


async def test_the_streams_own_waits(ctx, new_gate):
    stream = get_stream(ctx)
    gate, order = new_gate(), []
    gate.hold(ctx)

    async def wait():
        await stream.wait()
        order.append("waited")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        order.append("open")
        gate.open()
    assert order == ["open", "waited"]
    await anyio.to_thread.run_sync(stream.synchronize)
    assert (stream.id, stream.priority) == (ctx.stream.id, ctx.stream.driver_stream.priority)


async def test_functions_are_the_methods(ctx):
    assert get_context_usage(ctx) == ctx.usage()
    assert get_stream(ctx) is ctx.stream
