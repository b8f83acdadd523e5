"""Tools for tests, importable by name in worker processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import asyncgpu


class Square(asyncgpu.Tool):
    """Squares ints."""

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset

    def load(self, device: str) -> None:
        self.loaded_on = device

    def run(self, items):
        return [item * item + self.offset for item in items]


class Where(asyncgpu.Tool):
    """Answers with its process, its devices, and how many items came together."""

    def run(self, items):
        return [(os.getpid(), tuple(self.indices), len(items))] * len(items)


class Priced(Where):
    """As `Where`; an item is its own cost."""

    deterministic = False

    def cost(self, item):
        return float(item)


class Poison(asyncgpu.Tool):
    """Fails for ``"bad"`` and kills its own process for ``"deadly"``."""

    def run(self, items):
        if "deadly" in items:
            os.kill(os.getpid(), signal.SIGKILL)
        if "bad" in items:
            raise ValueError("a bad item")
        return [f"{item}!" for item in items]


class DiesOnce(asyncgpu.Tool):
    """Kills its process the first time it runs, and leaves a mark so that the next one lives."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def run(self, items):
        mark = Path(self.mark)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [item + 1 for item in items]


class Gated(asyncgpu.Tool):
    """Says that it has begun, and passes items on once its gate is open."""

    max_batch = 1
    deterministic = False

    def __init__(self, entered, leave) -> None:
        self.entered = entered
        self.leave = leave

    def run(self, items):
        self.entered.open()
        self.leave.wait_sync()
        return [(item, os.getpid()) for item in items]


class WaitsFor(asyncgpu.Tool):
    """Passes items on; for ``"slow"`` it waits for its gate."""

    def __init__(self, gate) -> None:
        self.gate = gate

    def run(self, items):
        if "slow" in items:
            self.gate.wait_sync()
        return list(items)


class Echo(asyncgpu.Tool):
    """Passes items on."""

    deterministic = False

    def run(self, items):
        return list(items)


class Lists(asyncgpu.Tool):
    """A new list around each item."""

    def run(self, items):
        return [[item] for item in items]


class Threes(Where):
    """At most three at a time."""

    max_batch = 3
    deterministic = False


class LoadsBadly(asyncgpu.Tool):
    """Cannot be loaded."""

    def load(self, device: str) -> None:
        raise RuntimeError("no such checkpoint")

    def run(self, items):
        return items


class Seeded(asyncgpu.Tool):
    """Answers with the seed of each item."""

    def run(self, items, seeds=None):
        return list(seeds)


class TwoDevices(Where):
    """Needs two GPUs."""

    device = "cudax2"


class OnCpu(Where):
    """Runs on the CPU."""

    device = "cpu"


class OneShot(Where):
    """Loads, runs and stops on each call."""

    resident = False


@asyncgpu.tool(device="cpu", cost=len, max_batch=3)
def shout(items):
    """Upper case."""
    return [item.upper() for item in items]


class OtherSquare(Square):
    """A second tool that fights for the same devices."""


class Third(Square):
    """A third."""


class Fourth(Square):
    """A fourth."""


class GatedOnce(asyncgpu.Tool):
    """Answers with the size of each micro-batch; the first waits for its gate."""

    deterministic = False
    max_batch = 8

    def __init__(self, entered, leave) -> None:
        self.entered = entered
        self.leave = leave

    def run(self, items):
        self.entered.open()
        self.leave.wait_sync()
        if "bad" in items:
            raise ValueError("a bad item")
        return [len(items)] * len(items)


class Fixed(Where):
    """Cannot be moved to the CPU."""

    movable = False


class Chaos(asyncgpu.Tool):
    """Squares ints, but raises for some, and dies for some."""

    max_batch = 16

    def run(self, items):
        for item in items:
            if item % 89 == 13:
                os.kill(os.getpid(), signal.SIGKILL)
            if item % 50 == 7:
                raise ValueError(item)
        return [item * item for item in items]


class OtherChaos(Chaos):
    """The same again, in other processes."""
