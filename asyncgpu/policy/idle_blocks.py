"""The blocks of a pool that could be evicted, and the choice among them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from .pool_block import PoolBlock

__all__ = ["IdleBlocks"]


class IdleBlocks:
    """The unlocked blocks on the device, least recently used first.

    The order is that of events: a clock has ties, and a tie picks the wrong victim.

    Attributes:
        nbytes: their sizes added up.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._blocks: OrderedDict[int, PoolBlock] = OrderedDict()

    def add(self, block: PoolBlock, *, used: bool = True) -> None:
        """Add a block that is not among them, as the latest used; or as the one used longest ago.

        Args:
            block: unlocked, and on the device.
            used: whether it comes from a use.
        """
        self._blocks[block.number] = block
        self._blocks.move_to_end(block.number, last=used)
        self.nbytes += block.size

    def remove(self, block: PoolBlock) -> None:
        """Remove a block; nothing happens if it is not among them."""
        if self._blocks.pop(block.number, None) is not None:
            self.nbytes -= block.size

    def victims(self, shortage: int) -> list[PoolBlock]:
        """Return the blocks to evict for `shortage` bytes; empty: all of them are not enough.

        The least recently used come first. Those that turn out not to be needed, because a block
        chosen later is large, are spared, the most recently used of them first.
        """
        chosen: list[PoolBlock] = []
        missing = shortage
        if shortage <= 0 or shortage > self.nbytes:
            return chosen
        for block in self._blocks.values():
            chosen.append(block)
            missing -= block.size
            if missing <= 0:
                break
        for block in reversed(chosen.copy()):
            if missing + block.size <= 0:
                chosen.remove(block)
                missing += block.size
        return chosen

    def __iter__(self) -> Iterator[PoolBlock]:
        return iter(self._blocks.values())
