"""Without anyio's own `run`, what a callback of the loop starts has no task around it."""

from __future__ import annotations

import asyncio

import sample_tools

from asyncgpu import Runtime, Settings, ToolPool
from asyncgpu.testing import gate


def run(main):
    async def bounded():
        async with asyncio.timeout(60), Runtime(settings=Settings()), ToolPool(0, cpus=1) as pool:
            return await main(pool)

    return asyncio.run(bounded())


def test_a_worker_that_died_in_a_call_is_replaced(tmp_path):
    async def main(pool):
        return await pool.run(sample_tools.DiesOnce(str(tmp_path / "mark")).on("cpu"), [1, 2])

    assert run(main) == [2, 3]


def test_a_deadline_of_a_later_micro_batch_holds():
    async def main(pool):
        with gate() as held:
            tool = sample_tools.WaitsFor(held).on("cpu")
            tool.max_batch = 1
            return await pool.run(tool, ["a", "slow"], item_timeout=0.5, on_error="collect")

    answers = run(main)
    assert answers[0] == "a"
    assert isinstance(answers[1].error, TimeoutError)
