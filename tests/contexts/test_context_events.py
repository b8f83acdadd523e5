"""Events: producer and consumer on the device, and awaiting from the host."""

from __future__ import annotations

from itertools import pairwise

import anyio
import pytest

from asyncgpu import Runtime
from asyncgpu.contexts.calls import get_context_usage, get_stream, record_event, wait_event
from asyncgpu.contexts.session import context_session
from asyncgpu.drivers.virtual.driver import VirtualDriver
from asyncgpu.errors import ContextClosed, DeviceLost, InvalidRequest, RequestError
from asyncgpu.policy.context_state import ContextState

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


# ---------------------------------------------------------- where an event may come from


async def test_inside_and_outside_of_sessions_it_is_the_contexts_own_stream(registry, new_gate):
    """Not that of whoever calls: an event of `a` recorded in a session of `b` is one of `a`."""
    a, b, bystander = [await registry.create(name) for name in ("a", "b", "c")]
    gate, log = new_gate(), []
    gate.hold(a)
    put(a, log, "a")
    async with context_session(b, synchronize=False):
        event = record_event(a)
        assert not event.done()
    async with context_session(bystander):
        wait_event(b, event)
    put(b, log, "b")
    assert log == []
    gate.open()
    await b.synchronize()
    assert log == ["a", "b"]


async def test_an_event_recorded_in_another_tasks_session_is_awaited_by_many(ctx, new_gate):
    gate, woken, recorded = new_gate(), [], []
    gate.hold(ctx)

    async def record():
        async with context_session(ctx, synchronize=False):
            recorded.append(ctx.record_event())

    async def wait():
        await recorded[0]
        woken.append(recorded[0].done())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(record)
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert woken == []
        gate.open()
    assert woken == [True] * 50


async def test_a_cancelled_wait_leaves_the_event_to_the_others(ctx, new_gate):
    gate = new_gate()
    gate.hold(ctx)
    event = ctx.record_event()
    with anyio.move_on_after(0.01) as gave_up:
        await event
    assert gave_up.cancelled_caught
    assert not event.done()
    gate.open()
    await event.wait()


async def test_an_event_that_is_awaited_while_its_context_closes_is_reached(ctx, new_gate):
    gate = new_gate()
    gate.hold(ctx)
    event = ctx.record_event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(event.wait)
        tasks.start_soon(ctx.aclose)
        await anyio.wait_all_tasks_blocked()
        assert not event.done()
        gate.open()
    assert event.done()


async def test_an_event_of_another_runtime_is_refused_and_can_be_awaited(ctx):
    async with Runtime(driver=VirtualDriver.from_spec("1GiB")) as other:
        foreign = (await other.create_context("elsewhere")).record_event()
        for use in (
            lambda: ctx.wait_event(foreign),
            lambda: ctx.adopt([], foreign),
            lambda: ctx.record_event().elapsed_since(foreign),
        ):
            with pytest.raises(InvalidRequest, match="another runtime; await it"):
                use()
        await foreign


async def test_what_is_no_event_is_refused_by_name(ctx):
    for use in (
        lambda: ctx.wait_event("ready"),
        lambda: ctx.adopt([], "ready"),
        lambda: ctx.record_event().elapsed_since("ready"),
    ):
        with pytest.raises(InvalidRequest, match="'ready' is not an event"):
            use()


async def test_time_is_told_between_events_of_one_device(registry):
    """CUDA cannot compare the clocks of two devices, so virtual ones do not pretend to."""
    a = await registry.create("a", device="cuda:0")
    b = await registry.create("b", device="cuda:0")
    c = await registry.create("c", device="cuda:1")
    first, second, elsewhere = a.record_event(), b.record_event(), c.record_event()
    assert second.elapsed_since(first) >= 0
    with pytest.raises(InvalidRequest, match="different devices"):
        elsewhere.elapsed_since(first)


async def test_a_thread_that_synchronizes_does_not_hold_the_gil(ctx, new_gate):
    """If it did, nobody could ever open the gate that it waits for."""
    gate = new_gate()
    gate.hold(ctx)
    done = []

    def synchronize():
        get_stream(ctx).synchronize()
        done.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, synchronize)
        await anyio.to_thread.run_sync(gate.reached.wait)
        assert done == []
        gate.open()
    assert done == [True]


# ------------------------------------------------------------ rows of the acceptance list


async def test_b4_two_contexts_in_one_statement_end_independently(registry):
    a, b = await registry.create("a"), await registry.create("b")
    async with context_session(a), context_session(b):
        assert (a.state, b.state) == (ContextState.RUNNING, ContextState.RUNNING)
    assert (a.state, b.state) == (ContextState.IDLE, ContextState.IDLE)


async def test_b6_of_two_tasks_in_one_context_the_first_leaves_the_second_inside(ctx, where):
    seen, first_left = [], anyio.Event()

    async def second():
        async with context_session(ctx):
            await first_left.wait()
            seen.append((where(), ctx.state))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second)
        async with context_session(ctx):
            await anyio.wait_all_tasks_blocked()
        first_left.set()
    assert seen == [(ctx.stream.id, ContextState.RUNNING)]
    assert ctx.state is ContextState.IDLE


async def test_s1_each_context_has_one_stream_of_its_own(registry):
    a, b = await registry.create("a"), await registry.create("b")
    assert get_stream(a) is get_stream(a)
    assert get_stream(a).id != get_stream(b).id
    assert 0 not in {get_stream(a).id, get_stream(b).id}


async def test_s5_to_wait_for_a_reached_event_puts_nothing_on_the_stream(registry, monkeypatch):
    a, b = await registry.create("a"), await registry.create("b")
    event = record_event(a)
    await event

    def unexpected(_):
        raise AssertionError("it waits on the device")

    monkeypatch.setattr(type(b.stream.driver_stream), "wait_event", unexpected)
    wait_event(b, event)


async def test_s8_while_a_task_waits_for_an_event_the_loop_lives_on(ctx, new_gate):
    gate, beats = new_gate(), 0
    gate.hold(ctx)

    async def beat():
        nonlocal beats
        for _ in range(100):
            beats += 1
            await anyio.lowlevel.checkpoint()
        gate.open()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        await record_event(ctx)
        assert beats == 100
