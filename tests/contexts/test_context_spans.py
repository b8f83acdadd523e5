"""The runtime's timeline shows what contexts do: their sessions and their calls."""

from __future__ import annotations

import anyio
import pytest

from asyncgpu import Runtime, context_session
from asyncgpu.drivers.virtual.driver import VirtualDriver
from asyncgpu.testing import gate

pytestmark = pytest.mark.anyio


@pytest.fixture
async def runtime():
    async with Runtime(driver=VirtualDriver.from_spec("1GiB")) as opened:
        yield opened


def work():
    """What the context's thread calls."""


async def test_sessions_and_calls_are_spans_on_the_track_of_their_context(runtime):
    llm = await runtime.create_context("llm")
    async with context_session(llm):
        await llm.run_sync(work)
    await anyio.to_thread.run_sync(llm.bind(work))
    call, session, bound = runtime.timeline.spans
    assert {span.track for span in runtime.timeline.spans} == {"cuda:0 llm"}
    assert [span.category for span in (call, session, bound)] == ["run", "session", "run"]
    assert (call.name, bound.name) == ("run_sync(work)", "bound work")
    assert session.name.startswith("session of ")
    assert session.start <= call.start <= call.end <= session.end <= bound.start <= bound.end


async def test_a_span_ends_with_the_work_on_the_device(runtime):
    llm = await runtime.create_context("llm")
    with gate() as held:
        async with anyio.create_task_group() as tasks:

            async def hold():
                async with context_session(llm):
                    held.hold(llm)

            tasks.start_soon(hold)
            await anyio.wait_all_tasks_blocked()
            assert runtime.timeline.spans == ()
            opened = runtime.timeline.now()
            held.open()
    (span,) = runtime.timeline.spans
    assert span.end >= opened


async def test_its_clock_is_that_of_the_loop(runtime):
    """So that contexts and pools share an axis; uvloop's own clock is a few milliseconds coarse."""
    assert abs(runtime.timeline.now() - anyio.current_time()) < 1
    assert await anyio.to_thread.run_sync(runtime.timeline.now) >= anyio.current_time() - 1
