"""`Performer`: tells the device table what happens and carries out what it answers.

Every change goes through `tell`: the table is given an input and returns actions, which are
performed on the spot. Nothing is awaited in between, so no lock is needed; what takes time, an
eviction, runs in a task of the runtime and is reported back as one more input.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.lowlevel

from .. import ambient
from ..errors import DeviceError, DeviceLost, InfeasibleRequest, NoRuntime, RequestError
from ..policy.device_actions import Evict, Grant, Lock, Reject, Tell, Unlock
from ..policy.device_inputs import (
    Cancelled,
    ClaimKind,
    DeviceInput,
    Evicted,
    LocksTried,
    Released,
    Requested,
    Shape,
)
from ..policy.device_table import DeviceTable
from ..policy.hold_times import HoldTimes
from ..policy.offload import OffloadStrategy
from ..policy.qos import QoSPolicy
from ..promise import Promise, new_promise, resolve
from .allocation import Allocation, Evictable
from .changes import Answer, describe, newly_taken
from .locks import DeviceLocks
from .lookout import Lookout
from .memories import DeviceMemories
from .readings import Readings
from .status import Eviction
from .watching import Watch, Watchers

__all__ = ["Performer"]

log = logging.getLogger("asyncgpu.devices")

# Claims travel with tasks, and tasks may meet several runtimes of one process: a number must mean
# one claim only.
_claim_ids = itertools.count(1)

# Evictions that the status remembers.
_EVICTIONS = 100


class Performer:
    """The tasks and objects behind the claims of a device table."""

    def __init__(
        self,
        table: DeviceTable,
        *,
        clock: Callable[[], float],
        start_soon: Callable[..., None],
        eviction_timeout: float,
        memories: DeviceMemories | None,
        locks: DeviceLocks | None,
        readings: Readings | None,
    ) -> None:
        """Serve `table`; the rest is as for `DeviceManager`."""
        self.table = table
        self._clock = clock
        self._start_soon = start_soon
        self._eviction_timeout = eviction_timeout
        self._asking: dict[int, _Asker] = {}
        self._allocations: dict[int, Allocation] = {}
        self._watchers = Watchers()
        self.holds = HoldTimes()
        """How long devices were kept."""
        self.evictions: deque[Eviction] = deque(maxlen=_EVICTIONS)
        """The latest, oldest first."""
        self._memories = memories
        if memories is not None:
            memories.share_out(table.kept_from_contexts)
        self.lookout = Lookout(table, self.tell, readings=readings, locks=locks, memories=memories)
        self._closed = False

    def watch(self) -> Watch:
        """Return the changes from now on."""
        watch = self._watchers.add()
        if self._closed:
            watch.end()
        return watch

    def close(self) -> None:
        """Let whoever waits fail with `NoRuntime`, and end the watches; idempotent."""
        self._closed = True
        for asker in self._asking.values():
            resolve(asker.promise, None)
        self.lookout.close()
        self._watchers.end()

    # ----------------------------------------------------------------------------- waiting

    async def obtain(
        self,
        shape: Shape,
        qos: QoSPolicy,
        timeout: float | None,
        owner: Evictable | None,
        name: str,
    ) -> Allocation:
        """Wait for devices; cancelled at any point, nothing is left of the request.

        Args:
            shape: what is needed.
            qos: decides, with the time of arrival, who is served first.
            timeout: seconds to wait; None: as long as it takes.
            owner: who is asked to leave; None: nobody ever is.
            name: whose it is, for errors and the status.

        Raises:
            DeviceLost: it can no longer be met, because of a device that is gone.
            InfeasibleRequest: it could never be met.
            NoRuntime: this was closed.
            TimeoutError: it was not met in time.
        """
        # Cancelled here, nothing has been asked yet.
        await anyio.lowlevel.checkpoint()
        self._check_open()
        began = self._clock()
        with anyio.move_on_after(timeout):
            await self.lookout.prepare(shape)
        self._check_open()
        allocation = Allocation(next(_claim_ids), owner, name, self.tell)
        self._allocations[allocation.id] = allocation
        asker = self._asking[allocation.id] = _Asker(new_promise())
        try:
            request = Requested(allocation.id, shape, qos, ambient.claims.get(), name)
            await self._ask(request, allocation, asker, self._left(timeout, began))
            left = self._left(timeout, began)
            await self._until_contexts_have_made_room(allocation, shape, left)
        except BaseException:
            self._withdraw(allocation)
            raise
        finally:
            del self._asking[allocation.id]
        return allocation

    async def _ask(
        self, request: Requested, allocation: Allocation, asker: _Asker, timeout: float | None
    ) -> None:
        began = self._clock()
        self.tell(request)
        if not asker.promise.done():
            with anyio.move_on_after(timeout):
                await asker.promise
        if asker.refusal is not None:
            try:
                raise asker.refusal
            finally:
                # Its traceback refers to this frame, and must not find itself here.
                asker.refusal = None
        if not allocation.granted:
            self._check_open()
            waited = self._clock() - began
            why = self.table.explain(allocation.id)
            raise TimeoutError(f"{request.shape.spec} not granted within {waited:.3g} s: it {why}")

    async def _until_contexts_have_made_room(
        self, allocation: Allocation, shape: Shape, timeout: float | None
    ) -> None:
        """Wait until what the claim has declared is no longer used above contexts' reservations."""
        if self._memories is None or shape.kind is ClaimKind.CONTEXT or not shape.vram:
            return
        with anyio.move_on_after(timeout) as scope:
            for index in allocation.indices:
                await self._memories.until_whole(index)
        if scope.cancelled_caught:
            raise TimeoutError(
                f"{allocation.device}: contexts still use the memory that {allocation.name!r} "
                "has declared; nothing was granted"
            )

    def _left(self, timeout: float | None, began: float) -> float | None:
        return None if timeout is None else max(0.0, timeout - (self._clock() - began))

    def _withdraw(self, allocation: Allocation) -> None:
        """Leave no trace of a request whose asker is gone, not even of a grant it did not see."""
        if allocation.granted:
            allocation.release()
        elif allocation.id in self._allocations:
            self.tell(Cancelled(allocation.id))

    def _check_open(self) -> None:
        if self._closed:
            raise NoRuntime("the runtime of these devices has been closed")

    # -------------------------------------------------------------------------- performing

    def tell(self, input: DeviceInput) -> None:
        """Give the table an input and perform its actions."""
        now = self._clock()
        claim = getattr(input, "claim", None)
        self.holds.observe(input, None if claim is None else self.table.claim(claim), now)
        actions = self._decide(input, now)
        for action in actions:
            self._perform(action, now)
        if self._memories is not None:
            self._memories.share_out(self.table.kept_from_contexts)
        if self._watchers:
            for change in describe(input, actions, self._allocations, now):
                self._watchers.tell(change)
        for ended in (input, *actions):
            if isinstance(ended, Released | Evicted | Cancelled | Reject):
                del self._allocations[ended.claim]
        self.lookout.changed()

    def _decide(self, input: DeviceInput, now: float) -> list[Answer]:
        """Return what the table wants done, once it knows which devices can be locked."""
        if self._watchers and isinstance(input, LocksTried):
            for change in newly_taken(input, self.table.occupancy.taken, now):
                self._watchers.tell(change)
        decided: list[Answer] = []
        for action in self.table.handle(input, now):
            match action:
                case Lock(devices):
                    # Trying takes microseconds: it is known before anything else happens.
                    decided += self._decide(self.lookout.lock(devices), now)
                case Unlock(devices):
                    self.lookout.unlock(devices)
                case _:
                    decided.append(action)
        return decided

    def _perform(self, action: Answer, now: float) -> None:
        match action:
            case Grant(claim, devices):
                self._allocations[claim]._grant(devices)
                resolve(self._asking[claim].promise, None)
            case Reject(claim, reason, lost):
                asker = self._asking[claim]
                asker.refusal = DeviceLost(reason) if lost else InfeasibleRequest(reason)
                resolve(asker.promise, None)
            case Tell(claim, reason):
                self._allocations[claim]._lose(reason)
            case Evict(claim, strategy, _, running, reason):
                victim = self._allocations[claim]
                victim._begin_eviction()
                self.evictions.append(
                    Eviction(now, claim, victim.name, victim.devices, running, reason)
                )
                self._start_soon(self._evict, victim, strategy)

    async def _evict(self, allocation: Allocation, strategy: OffloadStrategy) -> None:
        """Make the owner leave, even if the runtime is closing, but not for ever."""
        assert allocation.owner is not None
        try:
            with anyio.move_on_after(self._eviction_timeout, shield=True) as scope:
                await allocation.owner.evict(strategy)
            if scope.cancelled_caught:
                log.error("%r was not evicted in time; its devices count as free", allocation)
        except Exception:
            log.exception("evicting %r failed; its devices count as free", allocation)
        finally:
            if not allocation.released:
                allocation._end_eviction()
                self.tell(Evicted(allocation.id))


@dataclass(slots=True)
class _Asker:
    """One call that waits: woken by its promise, it looks what became of its request."""

    promise: Promise[None]
    refusal: DeviceError | RequestError | None = None
