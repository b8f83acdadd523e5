"""Devices of a whole runtime: what a fault script does to them, and what workers know."""

from __future__ import annotations

import os

import anyio
import pytest

import asyncgpu
from asyncgpu import DeviceLost, Runtime
from tests.helpers.sample_tools import Where

pytestmark = pytest.mark.anyio

LIMIT = 30


async def until(watch, kind):
    async for change in watch:
        if change.kind == kind:
            return change
    raise AssertionError(f"the runtime was closed before anything was {kind}")


async def test_a_lost_device_ends_who_stands_there_and_the_rest_works(virtual_gpus, faults):
    virtual_gpus("2x8GiB")
    script = faults()
    async with Runtime() as rt, asyncgpu.persist():
        tool = Where()
        [(before, indices, _)] = await tool([1])
        assert indices == (0,)
        watch = rt.devices.watch()
        script.lose_device("cuda:0", "fallen off the bus")
        rt.devices.suspect()
        with anyio.fail_after(LIMIT):
            assert (await until(watch, "device lost")).devices == ("cuda:0",)
            assert (await until(watch, "evicting")).reason == "cuda:0 is lost: fallen off the bus"
            await until(watch, "released")
            [(after, indices, _)] = await tool([2])
        assert indices == (1,)
        assert after != before
        with pytest.raises(DeviceLost, match="cuda:0 is lost: fallen off the bus"):
            async with rt.lease("cuda:0"):
                pass
        lost, well = rt.status().devices.devices
        assert lost.lost == "fallen off the bus"
        assert (lost.managed, well.lost) == (False, None)


async def test_a_fault_of_this_process_alone_does_not_take_the_device_from_workers(
    virtual_gpus, faults
):
    virtual_gpus("1x8GiB")
    script = faults()
    async with Runtime() as rt:
        script.fail_next_work("cuda:0")
        async with await rt.create_context("broken") as ctx:
            asyncgpu.testing.busy(ctx, 0.0)
            with pytest.raises(DeviceLost):
                await ctx.synchronize()
        rt.devices.suspect()
        async with rt.lease("cuda:0", vram="1GiB", timeout=LIMIT) as lease:
            assert lease.lost is None


async def test_what_another_program_occupies_is_left_alone(virtual_gpus, faults):
    virtual_gpus("2x8GiB")
    script = faults()
    script.occupy("cuda:0", "7GiB")
    async with Runtime() as rt:
        async with rt.lease("cuda", vram="3GiB", timeout=LIMIT) as lease:
            assert lease.device == "cuda:1"
        assert rt.status().devices.devices[0].used_by_others == 7 * asyncgpu.GB


async def test_runtimes_that_tools_open_do_not_lock_against_their_parent(virtual_gpus):
    virtual_gpus("1x8GiB")

    @asyncgpu.tool(device="cpu")
    def read(items):
        return [os.environ.get(item) for item in items]

    async with Runtime():
        assert await read(["ASYNCGPU_DEVICE_LOCKS"]) == ["false"]
