"""Settings: the ``ASYNCGPU_*`` environment variables, read once, when a `Runtime` opens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .errors import InvalidRequest

__all__ = ["Settings"]

_PREFIX = "ASYNCGPU_"
# Two names are shorter in the environment than as a parameter.
_VARIABLE = {"allow_multiple_per_device": "ALLOW_MULTI_DEVICE"}
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a `Runtime` can be told from outside.

    ``Settings()`` holds the defaults; ``Settings.from_environ(os.environ)`` overlays each field's
    variable, ``ASYNCGPU_`` and the field's name in capitals (``ASYNCGPU_ALLOW_MULTI_DEVICE`` for
    `allow_multiple_per_device`). Times are seconds.
    """

    virtual_devices: str | None = None
    """``"2x8GiB"`` makes ``cuda:0`` and ``cuda:1`` out of the CPU; None: real devices only."""

    managed_devices: str | None = None
    """``"cuda:0,cuda:1"`` or ``"0,1"``; None: all visible devices."""

    offload_strategy: str = "restart"
    """What becomes of an evicted worker: ``"restart"`` ends it, ``"cpu"`` moves its model away."""

    allow_multiple_per_device: bool = False
    """Packing: several holders share a device, spread by free memory; declared VRAM is reserved."""

    device_locks: bool = True
    """GPUs in use are locked against other programs of the same user that use asyncgpu."""

    max_concurrent_sessions: int | None = None
    """Sessions at once on each device, over all contexts; None: any number."""

    ageing_seconds: float = 10.0
    """A waiter rises one QoS class for each of these, so that nobody waits for ever."""

    worker_start_timeout: float = 60.0
    """From spawning a worker process to its handshake; a tool's own `load` is not counted."""

    worker_stop_grace: float = 2.0
    """How long an ending worker may take for `Tool.close` before its process group is killed."""

    memory_soft_mark: float = 0.80
    """Share of a context's budget at which its caches are dropped and handlers told."""

    memory_hard_mark: float = 0.95
    """Share of a context's budget at which memory pressure handlers are told again."""

    memory_handler_timeout: float = 10.0
    """How long an async memory pressure handler may take; then its answer is no."""

    close_timeout: float = 10.0
    """How long a closing runtime waits for what its contexts still run."""

    def __post_init__(self) -> None:
        if self.offload_strategy not in ("restart", "cpu"):
            raise InvalidRequest(
                f"offload_strategy: {self.offload_strategy!r} is neither 'restart' nor 'cpu'"
            )
        sessions = self.max_concurrent_sessions
        if sessions is not None and (isinstance(sessions, bool) or sessions < 1):
            raise InvalidRequest(f"max_concurrent_sessions: {sessions!r} is not 1 or more")
        if not 0 < self.memory_soft_mark <= self.memory_hard_mark <= 1:
            raise InvalidRequest(
                f"memory marks: soft {self.memory_soft_mark} and hard {self.memory_hard_mark} are "
                "not shares above 0 and up to 1, in this order"
            )
        for name in ("ageing_seconds", "worker_start_timeout", "memory_handler_timeout"):
            _require(name, getattr(self, name), lambda x: x > 0, "must be above 0 seconds")
        for name in ("worker_stop_grace", "close_timeout"):
            _require(name, getattr(self, name), lambda x: x >= 0, "is not 0 seconds or more")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Return the defaults overlaid with the variables of `environ`.

        Raises:
            InvalidRequest: a variable's value cannot be read; the message names the variable.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            variable = _PREFIX + _VARIABLE.get(field.name, field.name.upper())
            raw = environ.get(variable)
            if raw is not None:
                values[field.name] = _parse(variable, raw, str(field.type))
        return cls(**values)


def _parse(variable: str, raw: str, type_name: str) -> Any:
    text = raw.strip()
    if type_name == "bool":
        if text.lower() not in _TRUE | _FALSE:
            raise InvalidRequest(f"{variable}={raw!r}: write true or false")
        return text.lower() in _TRUE
    try:
        if type_name == "float":
            return float(text)
        if type_name == "int | None":
            return int(text)
    except ValueError:
        raise InvalidRequest(f"{variable}={raw!r} is not a number") from None
    return text.lower() if variable.endswith("OFFLOAD_STRATEGY") else text


def _require(name: str, value: float, holds: Any, otherwise: str) -> None:
    if not (math.isfinite(value) and holds(value)):
        raise InvalidRequest(f"{name}: {value} {otherwise}")
