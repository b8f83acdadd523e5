"""How many acquire/release pairs a second the device table decides, and how that grows.

    python benchmarks/device_table.py [--devices 1000] [--seconds 1.0]

All devices are held and a queue of waiters stands before them. One pair is: the longest holder
releases its device, which goes to the first waiter, and a new request joins the queue; so both
inputs are made, handled and answered. The bound beside it is the least that any such queue must do
for a pair: one push to and one pop from a heap of as many waiters, and two calls.
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections import deque
from dataclasses import dataclass

from asyncgpu.policy.device_actions import Grant
from asyncgpu.policy.device_inputs import ClaimKind, Released, Requested, Shape
from asyncgpu.policy.device_spec import parse_device
from asyncgpu.policy.device_table import DeviceTable
from asyncgpu.policy.qos import QoSPolicy

CLASSES = list(QoSPolicy)


@dataclass
class Mix:
    """What the requests look like."""

    name: str
    shapes: list[Shape]
    packing: bool = False


def mixes(devices: int) -> list[Mix]:
    """One shape for all; a few shapes; a shape for each device."""
    lease = ClaimKind.LEASE
    exact = [Shape(lease, parse_device(f"cuda:{i}")) for i in range(devices)]
    few = [Shape(lease, parse_device("cuda"), group=f"tool {i}") for i in range(8)]
    return [
        Mix("any one", [Shape(lease, parse_device("cuda"))]),
        Mix("any one, 8 groups", few),
        Mix("exact", exact),
        Mix("any one, packing", [Shape(lease, parse_device("cuda"), vram=1 << 30)], packing=True),
    ]


class Crowd:
    """A full table with a queue before it."""

    def __init__(self, mix: Mix, devices: int, waiters: int) -> None:
        self.table = DeviceTable(dict.fromkeys(range(devices), 1 << 30), packing=mix.packing)
        self.shapes = mix.shapes
        self.claims = 0
        self.holders: deque[int] = deque()
        self.granted_at: dict[int, float] = {}
        for _ in range(devices + waiters):
            self.request()

    def request(self) -> None:
        self.claims += 1
        number = self.claims
        request = Requested(number, self.shapes[number % len(self.shapes)], CLASSES[number % 3])
        self.note(self.table.handle(request, number * 1e-4))

    def pair(self) -> None:
        self.note(self.table.handle(Released(self.holders.popleft()), self.claims * 1e-4))
        self.request()

    def note(self, actions: list) -> None:
        for action in actions:
            if type(action) is Grant:
                self.holders.append(action.claim)


def rate(pair, seconds: float) -> float:
    """Return how often a second `pair` runs: the best of three runs."""
    best = 0.0
    for _ in range(3):
        done = 0
        start = time.process_time()
        while (elapsed := time.process_time() - start) < seconds / 3:
            for _ in range(200):
                pair()
            done += 200
        best = max(best, done / elapsed)
    return best


def bound(waiters: int, seconds: float) -> float:
    """Return the rate of a bare heap of tuples with the calls around it."""
    heap = [(float(i), i) for i in range(waiters)]
    numbers = iter(range(waiters, 1 << 62))

    def release() -> int:
        return heapq.heappop(heap)[1]

    def request() -> None:
        number = next(numbers)
        heapq.heappush(heap, (float(number), number))

    def pair() -> None:
        release()
        request()

    return rate(pair, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each number")
    options = parser.parse_args()
    sizes = [100, 1000, 10_000]
    print(f"pairs a second, {options.devices} devices")
    print(f"{'waiters':28}" + "".join(f"{size:>12,}" for size in sizes))
    for mix in mixes(options.devices):
        rates = [rate(Crowd(mix, options.devices, size).pair, options.seconds) for size in sizes]
        print(f"{mix.name:28}" + "".join(f"{each:>12,.0f}" for each in rates))
    bounds = [bound(size, options.seconds) for size in sizes]
    print(f"{'bound: a bare heap':28}" + "".join(f"{each:>12,.0f}" for each in bounds))


if __name__ == "__main__":
    main()
