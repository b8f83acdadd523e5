"""A lease is a GPU of one's own until the end of a block; those who come later wait in turn.

Watch who holds what. There are two GPUs. Anna and Bert get one each, and Cleo waits. Dora wants
both, stops waiting after a moment, and leaves no trace. When Anna is done, her GPU is Cleo's.

    ASYNCGPU_VIRTUAL_DEVICES=2x8GiB python examples/leases.py
"""

from __future__ import annotations

import asyncio

import asyncgpu
from asyncgpu import Runtime


async def work(rt: Runtime, name: str, holds: asyncio.Event, until: asyncio.Event) -> None:
    async with rt.lease("cuda") as lease:
        print(f"{name} holds {lease.device}")
        holds.set()
        await until.wait()
    print(f"{name} is done")


async def give_up(rt: Runtime) -> None:
    try:
        async with rt.lease("cudax2", timeout=0.1):
            raise AssertionError("both GPUs are taken")
    except TimeoutError:
        print("Dora wanted both GPUs, and waits no longer")


async def main() -> None:
    anna, bert, cleo, closing_time = (asyncio.Event() for _ in range(4))
    anna_is_done = asyncio.Event()
    async with asyncgpu.Runtime() as rt, asyncio.TaskGroup() as tasks:
        tasks.create_task(work(rt, "Anna", anna, anna_is_done))
        tasks.create_task(work(rt, "Bert", bert, closing_time))
        await asyncio.gather(anna.wait(), bert.wait())
        tasks.create_task(work(rt, "Cleo", cleo, closing_time))
        await give_up(rt)
        anna_is_done.set()
        await cleo.wait()
        closing_time.set()


if __name__ == "__main__":
    asyncio.run(main())
