"""A tool whose workers die while they start."""

from __future__ import annotations

from pathlib import Path

import pytest
import sample_tools

import asyncgpu
from asyncgpu import ToolPool
from asyncgpu.policy.crash_loop import BACK_OFF, FAILURES

pytestmark = pytest.mark.anyio


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "mark"


@pytest.fixture
def clock(rt, monkeypatch):
    """Moves the time that crash loops see, and nothing else."""

    class Clock:
        ahead = 0.0

    crashes = rt.tools.launcher.crashes
    for name in ("may_start", "failed"):
        plain = getattr(crashes, name)

        def moved(*arguments, plain=plain, at=3 if name == "may_start" else 1):
            arguments = list(arguments)
            arguments[at] += Clock.ahead
            return plain(*arguments)

        monkeypatch.setattr(crashes, name, moved, raising=True)
    return Clock


async def test_who_waits_is_told_what_happened_and_when_the_next_start_is(rt, mark):
    async with ToolPool(0, cpus=1) as pool:
        with pytest.raises(asyncgpu.WorkerDied) as caught:
            await pool.call(sample_tools.NeverStarts(str(mark)), 1)
    assert caught.value.exit_code == 7
    [note] = caught.value.__notes__
    assert f"{FAILURES} starts in a row have failed" in note


async def test_who_comes_meanwhile_is_refused_at_once(rt, mark):
    tool = sample_tools.NeverStarts(str(mark))
    async with ToolPool(0, cpus=1) as pool:
        with pytest.raises(asyncgpu.WorkerDied):
            await pool.call(tool, 1)
        with pytest.raises(asyncgpu.AdmissionRejected, match="starts of its workers") as caught:
            await pool.run(tool, [1])
        assert 0 < caught.value.retry_after <= BACK_OFF
        assert pool.stats().slots[0].state == "absent"


async def test_it_holds_for_every_pool_of_the_runtime_and_for_no_other_tool(rt, mark):
    tool = sample_tools.NeverStarts(str(mark))
    with pytest.raises(asyncgpu.WorkerDied):
        await tool([1])
    async with ToolPool(0, cpus=1) as pool:
        with pytest.raises(asyncgpu.AdmissionRejected):
            await pool.call(tool, 1)
        other = sample_tools.NeverStarts(str(Path(__file__)))
        assert await pool.call(other, 1) == 2


async def test_one_good_start_ends_it(rt, mark, clock):
    tool = sample_tools.NeverStarts(str(mark))
    async with ToolPool(0, cpus=1) as pool:
        with pytest.raises(asyncgpu.WorkerDied):
            await pool.call(tool, 1)
        clock.ahead = BACK_OFF
        with pytest.raises(asyncgpu.WorkerDied) as caught:
            await pool.call(tool, 1)  # a single start, on trial
        assert f"{FAILURES + 1} starts in a row" in caught.value.__notes__[0]
        mark.touch()
        with pytest.raises(asyncgpu.AdmissionRejected):
            await pool.call(tool, 1)
        clock.ahead += 2 * BACK_OFF
        assert await pool.call(tool, 1) == 2
        assert rt.tools.launcher.crashes.find(tool.identity) is None


async def test_a_worker_that_dies_in_a_call_is_that_calls_matter(rt):
    async with ToolPool(0, cpus=1, retries=0) as pool:
        poison = sample_tools.Poison().on("cpu")
        for _ in range(FAILURES + 1):
            with pytest.raises(asyncgpu.WorkerDied):
                await pool.call(poison, "deadly")
        assert await pool.call(poison, "a") == "a!"
