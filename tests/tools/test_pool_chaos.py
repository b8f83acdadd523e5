"""Everything goes wrong at once, and each item still ends in exactly one outcome."""

from __future__ import annotations

import os
import random
from contextlib import suppress

import anyio
import pytest
import sample_tools

import asyncgpu
from asyncgpu import Settings, ToolPool

pytestmark = pytest.mark.anyio

ITEMS = 300


def check(answers: list[object]) -> None:
    assert len(answers) == ITEMS
    for item, answer in enumerate(answers):
        if item % 89 == 13:
            assert isinstance(answer.error, asyncgpu.WorkerDied), item
        elif isinstance(answer, int):
            assert item % 50 != 7
            assert answer == item * item
        else:
            # Its worker may have been killed from outside once too often.
            expected = asyncgpu.ToolFailed if item % 50 == 7 else asyncgpu.WorkerDied
            assert isinstance(answer.error, (expected, asyncgpu.WorkerDied)), item


@pytest.fixture
def settings():
    return Settings(virtual_devices="2x8GiB", allow_multiple_per_device=True)


async def test_kills_poison_cancels_and_several_tools_at_once(rt):
    chance = random.Random(20)
    results = {}

    async with ToolPool(retries=2) as pool, anyio.create_task_group() as tasks:

        def kill_somebody(progress):
            if chance.random() < 0.3:
                busy = [slot.pid for slot in pool.stats().slots if slot.state == "busy"]
                if busy:
                    with suppress(ProcessLookupError):
                        os.kill(chance.choice(busy), 9)

        async def run(tool):
            results[tool.name] = await pool.run(
                tool, range(ITEMS), on_error="collect", progress=kill_somebody
            )

        async def run_and_cancel(tool):
            with anyio.move_on_after(chance.random()):
                await pool.run(tool, range(1000, 1000 + ITEMS), on_error="collect")

        for tool in (sample_tools.Chaos(), sample_tools.OtherChaos()):
            tasks.start_soon(run, tool)
            for _ in range(3):
                tasks.start_soon(run_and_cancel, tool)
    assert set(results) == {"Chaos", "OtherChaos"}
    for answers in results.values():
        check(answers)
