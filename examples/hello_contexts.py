"""Two contexts share one GPU, each with a stream and a VRAM budget of its own.

Watch the first table: both tasks run in one thread and take turns, and after every await each is
back in its own context. Then an event makes one context wait for the other, on the device, while
the program goes on.

    ASYNCGPU_VIRTUAL_DEVICES=2x8GiB python examples/hello_contexts.py
"""

from __future__ import annotations

import asyncio

import torch

import asyncgpu
from asyncgpu import ExecutionContext, QoSPolicy, context_session


async def take_turns(ctx: ExecutionContext) -> None:
    async with context_session(ctx):
        for turn in range(3):
            here = asyncgpu.current_context()
            print(f"  turn {turn}: {ctx.name:8} finds itself in {here.name!r}, {here.device}")
            await asyncio.sleep(0)  # the other task runs here


async def hand_over(producer: ExecutionContext, consumer: ExecutionContext) -> float:
    async with context_session(producer, synchronize=False):
        batch = torch.arange(8.0, device=torch_device())
        ready = asyncgpu.record_event(producer)
    async with context_session(consumer):
        asyncgpu.wait_event(consumer, ready)  # queued on the device: nobody waits here
        total = batch.sum()
    await ready  # an event can be awaited, too
    return total.item()


def torch_device() -> str:
    """Virtual GPUs compute on the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


async def main() -> None:
    async with asyncgpu.Runtime():
        speech = await asyncgpu.create_context("speech", max_vram="2GiB", qos=QoSPolicy.GUARANTEED)
        vision = await asyncgpu.create_context("vision", max_vram="1GiB")

        print("two tasks in one thread:")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(take_turns(speech))
            tasks.create_task(take_turns(vision))

        print("from one stream to the other:")
        print(f"  the sum is {await hand_over(speech, vision):g}")

        print("a blocking function, on the context's own thread:")
        product = await vision.run_sync(torch.dot, torch.ones(4), torch.ones(4))
        print(f"  the product is {product.item():g}")


if __name__ == "__main__":
    asyncio.run(main())
