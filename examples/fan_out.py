"""A tool's items fan out over every GPU, and the answers come back in order.

Watch what comes first: items finish in the order of `stream`, costly ones having started first;
`run` gives the same answers in the order of the items. Equal items are computed once. The last
lines say what each worker did.

    ASYNCGPU_VIRTUAL_DEVICES=2x8GiB python examples/fan_out.py
"""

from __future__ import annotations

import asyncio

import torch

import asyncgpu
from asyncgpu import Progress, Tool, ToolPool


class Rotate(Tool):
    """Turns a vector round as often as the item says; stands for a model."""

    max_batch = 2

    def __init__(self, degrees: float = 1.0) -> None:
        self.degrees = degrees

    def load(self, device: str) -> None:
        angle = torch.deg2rad(torch.tensor(self.degrees, dtype=torch.float64))
        cos, sin = torch.cos(angle), torch.sin(angle)
        self.matrix = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])]).to(device)

    def run(self, items: list[int]) -> list[float]:
        return [self.turn(times) for times in items]

    def cost(self, item: int) -> float:
        return float(item)

    def turn(self, times: int) -> float:
        vector = torch.tensor([1.0, 0.0], dtype=torch.float64, device=self.matrix.device)
        for _ in range(times):
            vector = self.matrix @ vector
        return round(vector[0].item(), 6)


def show(progress: Progress) -> None:
    print(f"  {progress.done} of {progress.total} done, {progress.loading} workers loading")


async def main() -> None:
    turns = [90, 20_000, 180, 5_000, 360, 20_000, 45, 10_000]
    rotate = Rotate(degrees=1.0)
    async with asyncgpu.Runtime(), ToolPool() as pool:
        print("as they finish:")
        async for result in pool.stream(rotate, turns):
            print(f"  item {result.index} ({turns[result.index]} times): {result.value}")

        print("in order, with progress:")
        answers = await pool.run(rotate, turns, progress=show)
        print(f"  {answers}")

        print("who did what:")
        for slot in pool.stats().slots:
            print(f"  {slot.device}: {slot.items} items, loaded {slot.loads} time(s)")


if __name__ == "__main__":
    asyncio.run(main())
