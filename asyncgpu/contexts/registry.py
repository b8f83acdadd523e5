"""`ContextRegistry`: the contexts of one runtime, by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

import anyio

from ..errors import DuplicateName, InvalidRequest, NoRuntime
from ..policy.context_limits import context_limits
from ..policy.device_spec import DeviceChoice, parse_device
from ..policy.qos import QoSPolicy
from ..ports import Driver
from ..units import Size, parse_timeout
from .closing import Claim, StartSoon
from .context import ExecutionContext
from .device_partitions import DevicePartitions
from .device_turns import DeviceTurns
from .opening import Opening, Share
from .partition import Partition
from .spans import SpanSink

__all__ = ["ContextRegistry", "DeviceShares"]


class DeviceShares(Protocol):
    """The devices, as contexts share them."""

    async def reserve(
        self,
        device: int,
        /,
        *,
        owner_name: str,
        vram: int,
        qos: QoSPolicy,
        timeout: float | None,
    ) -> Claim:
        """Wait for a share of `device` with `vram` bytes reserved.

        Raises:
            InfeasibleRequest: it can never be met.
            TimeoutError: it was not met within `timeout` seconds.
        """
        ...


class ContextRegistry:
    """Creates, finds and destroys contexts. Used in the runtime's loop.

    Args:
        driver: the driver of the devices.
        devices: hands out shares of them.
        opening: opens what a context has of its device.
        start_soon: starts a task under the runtime's supervision.
        partitions: those of the devices; None: there are none.
        default_device: logical index used where the caller names none.
        new_device_turns: makes the turns of a device, over all its contexts.
    """

    def __init__(
        self,
        *,
        driver: Driver,
        devices: DeviceShares,
        opening: Opening,
        start_soon: StartSoon,
        partitions: DevicePartitions | None = None,
        default_device: int = 0,
        new_device_turns: Callable[[], DeviceTurns] = DeviceTurns,
        timeline: SpanSink | None = None,
    ) -> None:
        self._driver = driver
        self._devices = devices
        self._opening = opening
        self._partitions = partitions or DevicePartitions(driver, {})
        self._default_device = default_device
        self._start_soon = start_soon
        self._timeline = timeline
        self._turns: defaultdict[int, DeviceTurns] = defaultdict(new_device_turns)
        # None: somebody is creating it, and the name is taken.
        self._contexts: dict[str, ExecutionContext | None] = {}
        self._closed = False

    async def create(
        self,
        name: str,
        *,
        max_vram: Size | None = None,
        base_vram: Size | None = None,
        qos: QoSPolicy = QoSPolicy.BURSTABLE,
        device: str | None = None,
        partition: Partition | str | None = None,
        max_concurrent_sessions: int | None = None,
        timeout: float | None = None,
        claim: Claim | None = None,
    ) -> ExecutionContext:
        """Open a context, waiting for its reservation.

        Args:
            name: not empty, and not the name of an open context or one that is being created.
            max_vram: the most it may use; None: no cap of its own.
            base_vram: what it can rely on; see `context_limits`.
            qos: its class: GUARANTEED reserves `max_vram`, BURSTABLE its base, BEST_EFFORT nothing.
            device: ``"cuda:1"``; None or ``"cuda"``: the partition's, else the runtime's device.
            partition: where it belongs, or the id of that; None: the whole device.
            max_concurrent_sessions: sessions at once; None: no limit.
            timeout: seconds to wait for the reservation; None: no limit.
            claim: the share of the device that it lives in, where its owner has that already and is
                a worker. Then its calls take no turns of the device: one may wait for another
                worker there, which would have to wait for its turn. None: a share of its own.

        Raises:
            DeviceLost: the device has had a fault.
            DuplicateName: the name is taken.
            InfeasibleRequest: the reservation can never be met.
            InvalidRequest: a parameter means nothing.
            NoRuntime: the runtime is closed.
            RequestError: there is no such partition, or it was deleted.
            TimeoutError: the reservation was not met in time.
        """
        limits = context_limits(qos, max_vram=max_vram, base_vram=base_vram)
        index, within = self._place(device, partition)
        _check_name(name)
        _check_sessions(max_concurrent_sessions)
        timeout = parse_timeout(timeout)
        self._check_open()
        if name in self._contexts:
            raise DuplicateName(f"context {name!r} is open already, or being created")
        until = None if timeout is None else anyio.current_time() + timeout
        if within is not None:
            limits = within.enter(name, limits)
        self._contexts[name] = None
        try:
            turns = self._turns[index] if claim is None else DeviceTurns()
            claim = claim or await self._devices.reserve(
                index, owner_name=name, vram=limits.reservation, qos=qos, timeout=timeout
            )
            try:
                share = await self._opening.open(
                    limits, index, partition=within, timeout=_left(until)
                )
                self._check_open_for(share)
            except BaseException:
                claim.release()
                raise
            context = ExecutionContext(
                name,
                limits,
                driver=self._driver,
                stream=share.stream,
                memory=share.memory,
                device=index,
                claim=claim,
                start_soon=self._start_soon,
                max_concurrent_sessions=max_concurrent_sessions,
                device_turns=turns,
                timeline=self._timeline,
                on_closed=lambda: self._forget(name, within),
            )
        except BaseException:
            self._forget(name, within)
            raise
        self._contexts[name] = context
        return context

    def get(self, name: str) -> ExecutionContext | None:
        """Return the open context of that name."""
        return self._contexts.get(name)

    def contexts(self) -> list[ExecutionContext]:
        """Return the open contexts, oldest first."""
        # A copy first: a thread may ask, on behalf of a context that needs room.
        return [context for context in list(self._contexts.values()) if context is not None]

    def names(self) -> list[str]:
        """Return the names of the open contexts, oldest first."""
        return [context.name for context in self.contexts()]

    async def destroy(self, name: str) -> bool:
        """Close the context of that name, draining it; return False if there is none."""
        context = self.get(name)
        if context is None:
            return False
        await context.aclose()
        return True

    async def aclose(self, *, timeout: float | None = None) -> None:
        """Close all contexts, side by side, and create no more.

        Args:
            timeout: seconds for all of them together; None: no limit.

        Raises:
            TimeoutError: some context still runs something; the message says which and what.
        """
        self._closed = True
        errors: list[Exception] = []

        async def close(context: ExecutionContext) -> None:
            try:
                await context.aclose(timeout=timeout)
            except Exception as error:  # noqa: BLE001 - raised below, when all have been tried
                errors.append(error)

        async with anyio.create_task_group() as closing:
            for context in self.contexts():
                closing.start_soon(close, context)
        for error in errors:
            if not isinstance(error, TimeoutError):
                raise error
        if errors:
            raise TimeoutError("; ".join(sorted(map(str, errors))))

    def abandon(self) -> None:
        """Close what `aclose` has left, without waiting for what still runs in it."""
        for context in self.contexts():
            context._closing.abandon()

    def _check_open(self) -> None:
        if self._closed:
            raise NoRuntime("this runtime is closed: open another one to create contexts")

    def _check_open_for(self, share: Share) -> None:
        try:
            self._check_open()
        except BaseException:
            share.close()
            raise

    def _forget(self, name: str, partition: Partition | None) -> None:
        del self._contexts[name]
        if partition is not None:
            partition.leave(name)

    def _place(
        self, device: str | None, partition: Partition | str | None
    ) -> tuple[int, Partition | None]:
        named = None if device is None else _named_device(device)
        if partition is not None:
            found = self._partitions.find(partition, named)
            return (self._default_device if found.device is None else found.device), found
        return (self._default_device if named is None else named), None


def _named_device(device: str) -> int | None:
    """Return the index that `device` names; None: any one."""
    spec = parse_device(device)
    if spec.count != 1:
        raise InvalidRequest(f"device: a context lives on one GPU, not on {device!r}")
    return spec.indices[0] if spec.kind is DeviceChoice.EXACT else None


def _left(until: float | None) -> float | None:
    """Return the seconds left until a moment of the loop's clock; None: any number."""
    return None if until is None else max(0.0, until - anyio.current_time())


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.strip():
        raise InvalidRequest(f"name: {name!r} is not a name; use a string that is not empty")


def _check_sessions(limit: int | None) -> None:
    if limit is None:
        return
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidRequest(f"max_concurrent_sessions: {limit!r} is not 1 or more")
