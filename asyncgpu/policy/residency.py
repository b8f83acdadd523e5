"""Which blocks of a memory pool are on the device, who is evicted for whom, and who waits.

Requests are served one after the other: the higher priority first, then the earlier one. Nobody
overtakes the head of the queue, however little he wants. What the head needs is looked for in this
order:

1. cached memory of exactly its size;
2. what is left of the quota, once cached memory in the way has been given back;
3. the memory of unlocked blocks, least recently used first. They are evicted only if all of them
   together are enough; else the head waits until a block is unlocked or freed.

An eviction takes time, and a victim cannot be used meanwhile: whoever wants it stands in the queue
like everybody else, or a block that is always in use again would hold the queue up for ever. If
nobody needs its memory any more once it has been copied out, the eviction is called off.

What has been freed is never brought back, and no block is evicted while it is locked or loading.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InfeasibleRequest, InvalidRequest, RequestError
from .idle_blocks import IdleBlocks
from .pool_actions import CopyOut, ForgetHostCopy, Load, PoolAction, Release
from .pool_block import BlockState, PoolBlock, Want, WantState
from .pool_memory import PoolMemory, Taken, rounded
from .pool_wants import PoolWants

__all__ = ["Residency"]


class Residency:
    """The decisions of one pool. Every input returns the actions to perform, in order.

    Attributes:
        memory: the pool's device memory.
        evicts: whether blocks may be moved to the host.
        wants: who waits.
        idle: the blocks that could be evicted.
        evictions: how often a block has been moved to the host.
        reloads: how often one has been brought back.
        reuses: how often the memory of a freed block was used again.
    """

    def __init__(self, quota: int, *, eviction: bool = True) -> None:
        """Manage `quota` bytes; without `eviction` blocks stay on the device until freed."""
        self.memory = PoolMemory(quota)
        self.wants = PoolWants()
        self.idle = IdleBlocks()
        self.evictions = 0
        self.reloads = 0
        self.reuses = 0
        self.evicts = eviction
        self._blocks: dict[int, PoolBlock] = {}
        self._next = 0
        self._closed = False

    @property
    def blocks(self) -> list[PoolBlock]:
        """Every block that is not gone."""
        return list(self._blocks.values())

    # ----------------------------------------------------------------------------- requests

    def allocate(
        self, nbytes: int, priority: int = 0, held: Iterable[PoolBlock] = ()
    ) -> tuple[Want, list[PoolAction]]:
        """Ask for a new block.

        Args:
            nbytes: above 0.
            priority: the higher is served first.
            held: the blocks that the asker itself uses.

        Raises:
            InfeasibleRequest: it can never be met; nothing has changed.
        """
        self.check(nbytes, held)
        self._next += 1
        block = PoolBlock(self._next, nbytes, priority)
        self._blocks[block.number] = block
        want = self.wants.add(block, priority, locks=False, queued=True)
        return want, self._serve([])

    def check(self, nbytes: int, held: Iterable[PoolBlock] = ()) -> None:
        """Raise if a block of `nbytes` can never be met.

        Args:
            nbytes: of the block.
            held: the blocks that the asker itself uses.

        Raises:
            InfeasibleRequest: it is more than the quota, or than `held` leave of it.
        """
        size, quota = rounded(nbytes), self.memory.quota
        if size > quota:
            raise InfeasibleRequest(f"{size} bytes asked of a memory pool of {quota} bytes")
        own = sum(block.size for block in set(held) if block.locks)
        if size + own > quota:
            raise InfeasibleRequest(
                f"{size} bytes asked of a memory pool of {quota} bytes, {own} of which the asking "
                "task has in use: it would wait for itself"
            )

    def use(
        self, block: PoolBlock, priority: int | None = None, held: Iterable[PoolBlock] = ()
    ) -> tuple[Want, list[PoolAction]]:
        """Ask for `block` to be on the device, and locked there.

        Args:
            block: one that was given.
            priority: the higher is served first; None: as when it was allocated.
            held: the blocks that the asker itself uses.

        Raises:
            InfeasibleRequest: the asker would wait for itself; nothing has changed.
            InvalidRequest: the block has been freed.
        """
        _check_not_freed(block)
        in_reach = block.state in (BlockState.RESIDENT, BlockState.LOADING)
        if not in_reach:
            self.check(block.size, (other for other in held if other is not block))
        priority = block.priority if priority is None else priority
        want = self.wants.add(block, priority, locks=True, queued=not in_reach)
        if block.state is BlockState.RESIDENT:
            return want, self._arrived(block, [])
        return want, self._serve([])

    def withdraw(self, want: Want) -> list[PoolAction]:
        """Forget a request whose asker is gone, and whatever it was granted."""
        if want.state is WantState.GRANTED and want.locks:
            return self.leave(want)
        actions: list[PoolAction] = []
        if want.state is WantState.WAITING:
            self.wants.withdraw(want)
        if not want.locks and not _is_freed(want.block):
            self._end(want.block, actions)
        return self._serve(actions)

    def leave(self, want: Want) -> list[PoolAction]:
        """End a use; the last one unlocks the block."""
        block, actions = want.block, list[PoolAction]()
        want.state = WantState.OVER
        block.locks -= 1
        if not block.locks:
            self.idle.add(block)
            if self._closed:
                self._end(block, actions, scrap=True)
        return self._serve(actions)

    def free(self, block: PoolBlock) -> list[PoolAction]:
        """Free a block; requests to use it are refused.

        Raises:
            InvalidRequest: it was freed before.
            RequestError: it is in use.
        """
        _check_not_freed(block)
        if block.locks:
            raise RequestError(f"block {block.number} is in use: leave `use()` before freeing it")
        actions: list[PoolAction] = []
        self._end(block, actions)
        return self._serve(actions)

    # ----------------------------------------------------------------------------- outcomes

    def loaded(self, block: PoolBlock) -> list[PoolAction]:
        """Take note that a `Load` is done."""
        actions: list[PoolAction] = []
        if block.ended:
            self._finish(block, actions)
            return self._serve(actions)
        if block.on_host:
            self.reloads += 1
            self._forget_host_copy(block, actions)
        block.move(BlockState.RESIDENT)
        self.idle.add(block)
        self._arrived(block, actions)
        return self._serve(actions)

    def load_failed(self, block: PoolBlock, error: Exception) -> list[PoolAction]:
        """Take note that a `Load` has failed: its buffer is no more, the host copy is as it was."""
        actions: list[PoolAction] = []
        assert block.buffer is not None
        self.memory.drop(block.buffer)
        block.buffer = None
        self.wants.refuse_all(block, error, actions)
        if block.on_host and not block.ended:
            block.move(BlockState.EVICTED)
        else:
            self._finish(block, actions)
        return self._serve(actions)

    def copied_out(self, block: PoolBlock) -> list[PoolAction]:
        """Take note that a `CopyOut` is done; only now it is decided whether the block leaves."""
        actions: list[PoolAction] = []
        block.on_host = True
        if block.ended:
            self._finish(block, actions)
        elif self._is_in_the_way(block):
            block.move(BlockState.EVICTED)
            self.evictions += 1
            self._give_back(block, actions)
        else:
            self._stay(block, actions)
        return self._serve(actions)

    def copy_out_failed(self, block: PoolBlock, error: Exception) -> list[PoolAction]:
        """Take note that a `CopyOut` has failed: the block is as it was.

        Who needs its room is refused: else the same eviction would be tried, and fail, for ever.
        """
        actions: list[PoolAction] = []
        if block.ended:
            self._finish(block, actions)
            return self._serve(actions)
        head = self.wants.head
        if head is not None and self._is_in_the_way(block):
            self.wants.refuse(head, error, actions)
            if not head.locks:
                self._finish(head.block, actions)
        self._stay(block, actions)
        return self._serve(actions)

    # ------------------------------------------------------------------------------ the pool

    def flush(self) -> list[PoolAction]:
        """Give all cached memory back."""
        return [Release(buffer) for buffer in self.memory.flush()]

    def clear(self) -> list[PoolAction]:
        """Free all blocks that were given; their memory, and all cached memory, goes back.

        Raises:
            RequestError: some are in use; nothing has changed.
        """
        in_use = sum(block.locks > 0 for block in self._blocks.values())
        if in_use:
            raise RequestError(f"{in_use} blocks of this pool are in use: leave `use()` first")
        actions = self.flush()
        for block in self.blocks:
            if block.given:
                self._end(block, actions, scrap=True)
        return self._serve(actions)

    def refuse_all(self, error: Exception) -> list[PoolAction]:
        """Refuse everybody who waits."""
        actions: list[PoolAction] = []
        for block in self.blocks:
            self.wants.refuse_all(block, error, actions)
            if not block.given and not block.ended:
                self._end(block, actions)
        return actions

    def close(self, error: Exception) -> list[PoolAction]:
        """Refuse everybody who waits, and free all blocks; those in use when they are left."""
        self._closed = True
        actions = self.refuse_all(error) + self.flush()
        for block in self.blocks:
            if not block.locks:
                self._end(block, actions, scrap=True)
        return actions

    # ---------------------------------------------------------------------------- the queue

    def _serve(self, actions: list[PoolAction]) -> list[PoolAction]:
        """Give memory to the first in the queue for as long as there is some."""
        while (want := self.wants.head) is not None:
            block = want.block
            if block.state is BlockState.LEAVING:
                # It will stay: whoever it was to leave for stands behind the one who wants it.
                break
            taken = self.memory.take(block.size)
            if taken is None:
                self._make_room(block.size, actions)
                break
            self._place(block, taken, actions)
        return actions

    def _place(self, block: PoolBlock, taken: Taken, actions: list[PoolAction]) -> None:
        actions += [Release(buffer) for buffer in taken.released]
        self.reuses += taken.freed
        block.buffer = taken.buffer
        self.wants.leave_queue(block)
        if taken.cached and not block.on_host:
            block.move(BlockState.RESIDENT)
            self.idle.add(block)
            self._arrived(block, actions)
        else:
            block.move(BlockState.LOADING)
            new, reload = not taken.cached, block.on_host
            actions.append(Load(block, taken.buffer, new=new, reload=reload))

    def _arrived(self, block: PoolBlock, actions: list[PoolAction]) -> list[PoolAction]:
        """Grant all requests for a block that is on the device."""
        self.wants.grant(block, actions)
        if block.locks:
            self.idle.remove(block)
        return actions

    # ---------------------------------------------------------------------------- evictions

    def _make_room(self, size: int, actions: list[PoolAction]) -> None:
        if not self.evicts:
            return
        for block in self.idle.victims(self._shortage(size)):
            assert block.buffer is not None
            self.idle.remove(block)
            block.move(BlockState.LEAVING)
            actions.append(CopyOut(block, block.buffer))

    def _shortage(self, size: int) -> int:
        """Return what `size` needs beyond free and cached memory, and what is becoming free."""
        coming = sum(
            block.size
            for block in self._blocks.values()
            if block.state is BlockState.LEAVING or block.ended
        )
        return size - self.memory.room - self.memory.cached - coming

    def _is_in_the_way(self, block: PoolBlock) -> bool:
        """Whether the head of the queue can be served, and not without this victim's memory."""
        head = self.wants.head
        if head is None or head.block is block:
            return False
        return -block.size < self._shortage(head.block.size) <= self.idle.nbytes

    def _stay(self, block: PoolBlock, actions: list[PoolAction]) -> None:
        """Keep a victim on the device: it was the least recently used block, and still is."""
        self._forget_host_copy(block, actions)
        block.move(BlockState.RESIDENT)
        self.idle.add(block, used=False)
        self._arrived(block, actions)

    # ------------------------------------------------------------------------------- endings

    def _end(self, block: PoolBlock, actions: list[PoolAction], *, scrap: bool = False) -> None:
        """Free a block that is not locked, at once or when the copy under way is over."""
        self.wants.refuse_all(block, InvalidRequest(f"block {block.number} was freed"), actions)
        block.scrapped = block.scrapped or scrap
        if block.moving:
            block.ended = True
        else:
            self._finish(block, actions)

    def _finish(self, block: PoolBlock, actions: list[PoolAction]) -> None:
        self.idle.remove(block)
        if block.buffer is not None:
            self._give_back(block, actions)
        self._forget_host_copy(block, actions)
        block.move(BlockState.GONE)
        del self._blocks[block.number]

    def _give_back(self, block: PoolBlock, actions: list[PoolAction]) -> None:
        buffer, block.buffer = block.buffer, None
        assert buffer is not None
        if block.scrapped:
            self.memory.drop(buffer)
            actions.append(Release(buffer))
        else:
            self.memory.cache(buffer, freed=block.state is not BlockState.EVICTED)

    def _forget_host_copy(self, block: PoolBlock, actions: list[PoolAction]) -> None:
        if block.on_host:
            block.on_host = False
            actions.append(ForgetHostCopy(block))


def _check_not_freed(block: PoolBlock) -> None:
    if _is_freed(block):
        raise InvalidRequest(f"block {block.number} was freed")


def _is_freed(block: PoolBlock) -> bool:
    return block.ended or block.state is BlockState.GONE
