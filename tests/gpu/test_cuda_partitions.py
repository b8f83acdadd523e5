"""Compute shares on real hardware: what is granted, and that a kernel feels it."""

from __future__ import annotations

import pytest
import torch

from asyncgpu import PartitionLimits, Runtime

from .cuda_rig import opened_rig

pytestmark = pytest.mark.gpu


@pytest.fixture
def rig():
    yield from opened_rig()


def open_share(rig, share):
    opened = rig.driver.open_share(0, share)
    if not opened.enforced:
        pytest.skip("this driver or device has no green contexts")
    return opened


def test_two_halves_are_granted_in_whole_groups_of_sms(rig):
    total = torch.cuda.get_device_properties(0).multi_processor_count
    halves = [open_share(rig, 0.5) for _ in range(2)]
    for half in halves:
        assert half.granted == half.sm_count / total
        assert 0.4 <= half.granted <= 0.5
        half.close()


def test_what_was_given_back_can_be_taken_again(rig):
    for _ in range(3):
        share = open_share(rig, 0.9)
        share.close()


def test_half_of_the_sms_are_clearly_slower_on_a_kernel_that_fills_the_device(rig):
    """K13. By device time, so that the host has no part in it."""
    share = open_share(rig, 0.5)
    whole = rig.driver.create_stream(0, level=1)
    half = rig.driver.create_stream(0, level=1, share=share)
    matrix = torch.randn(8192, 8192, device="cuda:0", dtype=torch.bfloat16)
    torch.cuda.synchronize(0)

    def seconds(stream):
        with torch.cuda.stream(stream.torch_stream):
            matrix @ matrix
            before = stream.record()
            for _ in range(20):
                matrix @ matrix
            after = stream.record()
        after.synchronize()
        return after.elapsed_since(before)

    ratio = seconds(half) / seconds(whole)
    share.close()
    assert ratio > 1.4, f"half of the device took {ratio:.2f} times as long as all of it"


def test_events_link_streams_inside_and_outside_a_share(rig):
    share = open_share(rig, 0.5)
    inside = rig.driver.create_stream(0, level=0, share=share)
    outside = rig.driver.create_stream(0, level=0)
    release = rig.hold(inside)
    rig.append(inside, 1)
    outside.wait_event(inside.record())
    rig.append(outside, 2)
    ready = outside.record()
    inside.wait_event(ready)
    rig.append(inside, 3)
    done = inside.record()
    assert not done.done()
    release()
    done.synchronize()
    assert rig.read() == 123
    share.close()


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.anyio
async def test_a_context_in_a_partition_computes_there():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    async with Runtime(driver="cuda") as rt:
        limits = PartitionLimits().memory("1GiB").compute(0.25)
        partition = rt.partitions().create_partition("p", "P", limits)
        ctx = await rt.create_context("a", partition=partition)
        total = await ctx.run_sync(lambda: torch.ones(1000, device="cuda:0").sum().item())
        assert total == 1000
        assert partition.usage.contexts == ("a",)
