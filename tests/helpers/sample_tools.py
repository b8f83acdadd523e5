"""Tools for tests, importable by name in worker processes."""

from __future__ import annotations

import os
import signal
from importlib import import_module
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


class GatedPrices(Gated):
    """As `Gated`; an item is its own cost, and its own answer."""

    def run(self, items):
        super().run(items)
        return list(items)

    def cost(self, item):
        return float(item)


class OneByteEach(asyncgpu.Tool):
    """Has memory for so many items at once; ``"giant"`` needs more than 10 GiB of its device."""

    deterministic = False

    def __init__(self, room: int = 4, wrapped: bool = False) -> None:
        self.room = room
        self.wrapped = wrapped

    def run(self, items):
        small = not self.indices or self.indices[0] == 0
        if len(items) > self.room or ("giant" in items and small):
            error = asyncgpu.OutOfDeviceMemory("cuda:0", len(items), self.room)
            if self.wrapped:
                raise RuntimeError("inference failed") from error
            raise error
        return [(item, len(items), tuple(self.indices)) for item in items]


class HeldOneByteEach(OneByteEach):
    """The same; the first micro-batch waits for its gate."""

    max_batch = 16

    def __init__(self, entered, leave) -> None:
        super().__init__()
        self.entered = entered
        self.leave = leave

    def run(self, items):
        self.entered.open()
        self.leave.wait_sync()
        return super().run(items)


class OutOfHostMemory(asyncgpu.Tool):
    """Asks for more host memory than there is."""

    device = "cpu"

    def run(self, items):
        raise MemoryError("no more")


class NeverStarts(asyncgpu.Tool):
    """Kills its process while it loads, as long as there is no mark."""

    device = "cpu"

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def load(self, device):
        if not Path(self.mark).exists():
            os._exit(7)

    def run(self, items):
        return [item + 1 for item in items]


class ShortLived(Where):
    """Is replaced after two calls."""

    device = "cpu"
    deterministic = False
    max_batch = 1
    recycle_after = 2


class ShortLivedOnGpu(ShortLived):
    """The same, on a GPU."""

    device = "cuda"


class Leaks(ShortLived):
    """Keeps as many bytes as each item says."""

    recycle_after = None
    recycle_memory = "64MiB"

    def load(self, device):
        self.kept = []

    def run(self, items):
        self.kept += [b"x" * item for item in items]
        return super().run(items)


class LoadsBehindAGate(ShortLived):
    """Its second and later processes wait for a gate while they load."""

    def __init__(self, first, loading, leave) -> None:
        self.first = first
        self.loading = loading
        self.leave = leave

    def load(self, device):
        if self.first.is_open():
            self.loading.open()
            self.leave.wait_sync()
        self.first.open()


class Nothing(asyncgpu.Tool):
    """Has None for an answer."""

    def run(self, items):
        return [None] * len(items)


class FailsOnce(Gated):
    """Raises the first time it runs, once its gate is open, and leaves a mark."""

    deterministic = True

    def __init__(self, entered, leave, mark: str) -> None:
        super().__init__(entered, leave)
        self.mark = mark

    def run(self, items):
        super().run(items)
        if not Path(self.mark).exists():
            Path(self.mark).touch()
            raise ValueError("once")
        return list(items)


class Keyed(asyncgpu.Tool):
    """Takes lists, which its key makes comparable."""

    def run(self, items):
        return [sum(item) for item in items]

    def key(self, item):
        return tuple(item)


class Stingy(Square):
    """An item is its own cost."""

    def cost(self, item):
        return float(item)


class Labelled(asyncgpu.Tool):
    """Passes items on. Its argument may be anything."""

    def __init__(self, label: object) -> None:
        self.label = label

    def run(self, items):
        return list(items)


class GatedLists(Gated):
    """As `Gated`, but equal items have equal answers: a list around each."""

    deterministic = True

    def run(self, items):
        super().run(items)
        return [[item] for item in items]


class Blobs(asyncgpu.Tool):
    """So many megabytes for each item."""

    def run(self, items):
        return [bytearray(item << 20) for item in items]


class Ones(asyncgpu.Tool):
    """So many megabytes of ones for each item, as numpy or torch has them."""

    def __init__(self, library: str) -> None:
        self.library = library

    def run(self, items):
        library = import_module(self.library)
        return [library.ones(item << 20, dtype=library.uint8) for item in items]
