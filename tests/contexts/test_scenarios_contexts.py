"""Acceptance scenarios of contexts and their classes, each named by its row.

Rows that the other files of this folder hold under names of their own are not repeated.
"""

from __future__ import annotations

import threading

import anyio
import pytest

import asyncgpu
from asyncgpu import DuplicateName, InfeasibleRequest, QoSPolicy, RequestError, Runtime, Settings

pytestmark = pytest.mark.anyio

GB = asyncgpu.GB
ONE = Settings(virtual_devices="1x8GiB")


async def test_a4_a_second_initialize_is_refused_and_a_new_budget_takes_effect_after_shutdown():
    await asyncgpu.initialize(settings=ONE, total_vram_budget="1GiB")
    with pytest.raises(RequestError, match="open on this event loop already"):
        await asyncgpu.initialize(settings=ONE, total_vram_budget="4GiB")
    with pytest.raises(InfeasibleRequest):
        await asyncgpu.create_context("big", max_vram="3GiB", qos=QoSPolicy.GUARANTEED)
    await asyncgpu.shutdown()
    await asyncgpu.initialize(settings=ONE, total_vram_budget="4GiB")
    ctx = await asyncgpu.create_context("big", max_vram="3GiB", qos=QoSPolicy.GUARANTEED)
    assert ctx.max_vram == 3 * GB
    await asyncgpu.shutdown()


async def test_a5_a_name_that_is_taken_leaves_the_first_context_as_it_was(registry):
    first = await registry.create("a", max_vram="1GiB")
    stream, usage = first.stream.id, first.usage()
    with pytest.raises(DuplicateName, match="'a'"):
        await registry.create("a", max_vram="2GiB")
    assert registry.contexts() == [first]
    assert (first.stream.id, first.usage()) == (stream, usage)
    assert await first.run_sync(lambda: "works") == "works"


async def test_a6_three_contexts_have_three_streams_and_are_all_listed(registry):
    made = [await registry.create(name) for name in "abc"]
    assert len({ctx.stream.id for ctx in made} | {0}) == 4, "and none has the default stream"
    assert registry.names() == ["a", "b", "c"]


async def test_a9_destroying_a_context_lets_calls_that_were_made_before_end(registry):
    ctx = await registry.create("a")
    began, end = threading.Event(), threading.Event()
    results = []

    def first():
        began.set()
        end.wait()
        return "first"

    async def call(fn):
        results.append(await ctx.run_sync(fn))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, first)
        await anyio.to_thread.run_sync(began.wait)
        tasks.start_soon(call, lambda: "queued")
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(registry.destroy, "a")
        await anyio.wait_all_tasks_blocked()
        assert (results, registry.names()) == ([], ["a"])
        end.set()
    assert sorted(results) == ["first", "queued"]
    assert registry.names() == []


async def test_a10_a_new_context_does_not_get_the_stream_of_one_whose_work_is_in_flight(
    registry, new_gate
):
    old = await registry.create("a")
    gate = new_gate()
    gate.hold(old)
    with pytest.raises(TimeoutError):
        await old.aclose(timeout=0)
    with pytest.raises(DuplicateName):
        await registry.create("a")
    new = await registry.create("b")
    assert new.stream.id != old.stream.id
    with anyio.fail_after(30):
        await new.synchronize()
    gate.open()
    await old.aclose()
    assert registry.names() == ["b"]


async def test_d8_under_endless_better_load_best_effort_still_gets_its_turn():
    """Ageing: a session of the least class waits for two ageing times at most, and its turn."""
    settings = Settings(virtual_devices="1x8GiB", max_concurrent_sessions=1, ageing_seconds=0.005)
    async with Runtime(settings=settings) as runtime:
        load = await runtime.create_context("load", qos=QoSPolicy.BURSTABLE)
        patient = await runtime.create_context("patient", qos=QoSPolicy.BEST_EFFORT)
        served = anyio.Event()

        async def endless():
            while not served.is_set():
                async with load.session():
                    await anyio.sleep(0)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(endless)
                await anyio.sleep(0)
                async with patient.session():
                    served.set()
