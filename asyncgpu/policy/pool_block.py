"""One block of a memory pool: where its bytes are, as a table, and who waits for it.

::

    AWAITED --> LOADING --> RESIDENT --> LEAVING --> EVICTED
                   ^                        |           |
                   |                        '> RESIDENT |   called off, or failed
                   '------------------------------------'

A block that takes over the memory of a freed one is RESIDENT at once. Every state leads to GONE.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from ..errors import InvalidTransition
from .pool_memory import rounded
from .waiting import WaitQueue

__all__ = ["TRANSITIONS", "BlockState", "PoolBlock", "Want", "WantState"]


class BlockState(Enum):
    """Where the bytes of a block are."""

    AWAITED = "awaited"
    """Nowhere: it has been asked for, and has no memory yet."""
    LOADING = "loading"
    """Its device memory is its own, and is being got or filled."""
    RESIDENT = "resident"
    """On the device."""
    LEAVING = "leaving"
    """On the device, and being copied to the host."""
    EVICTED = "evicted"
    """On the host."""
    GONE = "gone"
    """Freed, or never had."""

    __hash__ = object.__hash__


TRANSITIONS: Mapping[BlockState, frozenset[BlockState]] = MappingProxyType(
    {
        BlockState.AWAITED: frozenset({BlockState.LOADING, BlockState.RESIDENT, BlockState.GONE}),
        BlockState.LOADING: frozenset({BlockState.RESIDENT, BlockState.EVICTED, BlockState.GONE}),
        BlockState.RESIDENT: frozenset({BlockState.LEAVING, BlockState.GONE}),
        BlockState.LEAVING: frozenset({BlockState.EVICTED, BlockState.RESIDENT, BlockState.GONE}),
        BlockState.EVICTED: frozenset({BlockState.LOADING, BlockState.GONE}),
        BlockState.GONE: frozenset(),
    }
)


class WantState(Enum):
    """What has become of a request."""

    WAITING = "waiting"
    GRANTED = "granted"
    OVER = "over"
    """Refused, withdrawn, or left."""

    __hash__ = object.__hash__


class Want:
    """One request that a block be on the device: to be allocated there, or to be used.

    Attributes:
        number: unique in its pool; later requests have higher ones.
        block: the block.
        locks: whether it keeps the block there until it is left: a use.
        state: what has become of it.
        order: the smaller is served first.
        queue: the queue it stands in; kept by the queue.
    """

    __slots__ = ("block", "locks", "number", "order", "queue", "state")

    def __init__(self, number: int, block: PoolBlock, priority: int, *, locks: bool) -> None:
        self.number = number
        self.block = block
        self.locks = locks
        self.state = WantState.WAITING
        self.order: tuple[float, int] = (-priority, number)
        self.queue: WaitQueue[Want] | None = None


class PoolBlock:
    """A block, as the decisions see it.

    Attributes:
        number: unique in its pool.
        size: bytes, rounded.
        priority: of requests for it that name none; the higher is served first.
        state: where its bytes are.
        buffer: the device memory it has; None: none.
        locks: how many use it.
        given: whether whoever allocated it has been told.
        ended: whether it is freed, and gone once the copy under way is over.
        scrapped: whether its memory then goes back to the device instead of being cached.
        on_host: whether the host has its bytes.
        wants: who waits for it to be on the device.
    """

    __slots__ = (
        "buffer",
        "ended",
        "given",
        "locks",
        "number",
        "on_host",
        "priority",
        "scrapped",
        "size",
        "state",
        "wants",
    )

    def __init__(self, number: int, nbytes: int, priority: int) -> None:
        self.number = number
        self.size = rounded(nbytes)
        self.priority = priority
        self.state = BlockState.AWAITED
        self.buffer: int | None = None
        self.locks = 0
        self.given = False
        self.ended = False
        self.scrapped = False
        self.on_host = False
        self.wants: dict[int, Want] = {}

    @property
    def moving(self) -> bool:
        """Whether something is being done to its memory, to be reported when it is over."""
        return self.state in (BlockState.LOADING, BlockState.LEAVING)

    def move(self, after: BlockState) -> None:
        """Change its state.

        Raises:
            InvalidTransition: the table has no such entry; nothing has changed.
        """
        if after not in TRANSITIONS[self.state]:
            raise InvalidTransition(f"pool block {self.number}", self.state.name, after.name)
        self.state = after

    def __repr__(self) -> str:
        return f"<PoolBlock {self.number} of {self.size} bytes, {self.state.value}>"
