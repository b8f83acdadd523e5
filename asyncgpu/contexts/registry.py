"""`ContextRegistry`: the contexts of one runtime, by name."""

from __future__ import annotations

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
        start_soon: starts a task under the runtime's supervision.
        default_device: logical index used where the caller names none.
    """

    def __init__(
        self,
        *,
        driver: Driver,
        devices: DeviceShares,
        start_soon: StartSoon,
        default_device: int = 0,
    ) -> None:
        self._driver = driver
        self._devices = devices
        self._default_device = default_device
        self._start_soon = start_soon
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
        max_concurrent_sessions: int | None = None,
        timeout: float | None = None,
    ) -> ExecutionContext:
        """Open a context, waiting for its reservation.

        Args:
            name: not empty, and not the name of an open context or one that is being created.
            max_vram: the most it may use; None: no cap of its own.
            base_vram: what it can rely on; see `context_limits`.
            qos: its class: GUARANTEED reserves `max_vram`, BURSTABLE its base, BEST_EFFORT nothing.
            device: ``"cuda:1"``; None or ``"cuda"``: the runtime's device.
            max_concurrent_sessions: sessions at once; None: no limit.
            timeout: seconds to wait for the reservation; None: no limit.

        Raises:
            DeviceLost: the device has had a fault.
            DuplicateName: the name is taken.
            InfeasibleRequest: the reservation can never be met.
            InvalidRequest: a parameter means nothing.
            NoRuntime: the runtime is closed.
            TimeoutError: the reservation was not met in time.
        """
        limits = context_limits(qos, max_vram=max_vram, base_vram=base_vram)
        index = self._device_index(device)
        _check_name(name)
        _check_sessions(max_concurrent_sessions)
        parse_timeout(timeout)
        self._check_open()
        if name in self._contexts:
            raise DuplicateName(f"context {name!r} is open already, or being created")
        self._contexts[name] = None
        try:
            claim = await self._devices.reserve(
                index, owner_name=name, vram=limits.reservation, qos=qos, timeout=timeout
            )
            try:
                self._check_open()
                context = ExecutionContext(
                    name,
                    limits,
                    driver=self._driver,
                    stream=self._driver.create_stream(index, level=qos.rank),
                    device=index,
                    claim=claim,
                    start_soon=self._start_soon,
                    max_concurrent_sessions=max_concurrent_sessions,
                    on_closed=lambda: self._contexts.pop(name),
                )
            except BaseException:
                claim.release()
                raise
        except BaseException:
            del self._contexts[name]
            raise
        self._contexts[name] = context
        return context

    def get(self, name: str) -> ExecutionContext | None:
        """Return the open context of that name."""
        return self._contexts.get(name)

    def contexts(self) -> list[ExecutionContext]:
        """Return the open contexts, oldest first."""
        return [context for context in self._contexts.values() if context is not None]

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

    def _check_open(self) -> None:
        if self._closed:
            raise NoRuntime("this runtime is closed: open another one to create contexts")

    def _device_index(self, device: str | None) -> int:
        if device is None:
            return self._default_device
        spec = parse_device(device)
        if spec.count != 1:
            raise InvalidRequest(f"device: a context lives on one GPU, not on {device!r}")
        return spec.indices[0] if spec.kind is DeviceChoice.EXACT else self._default_device


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.strip():
        raise InvalidRequest(f"name: {name!r} is not a name; use a string that is not empty")


def _check_sessions(limit: int | None) -> None:
    if limit is None:
        return
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidRequest(f"max_concurrent_sessions: {limit!r} is not 1 or more")
