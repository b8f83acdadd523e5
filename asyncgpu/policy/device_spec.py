"""Device strings: ``"cuda"``, ``"cudax2"``, ``"cuda:0,1"``, ``"cpu"``; read in one place only."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

from ..errors import InvalidDevice

__all__ = ["DeviceChoice", "DeviceSpec", "device_names", "parse_device", "parse_managed_devices"]

_FORMS = (
    "'cpu', 'cuda' (any GPU), 'cudax2' (any two), 'cuda:0' (this one), 'cuda:0,1' or "
    "'cuda:0,cuda:1' (these)"
)
_ANY = re.compile(r"cuda(?:x([1-9][0-9]*))?", re.ASCII)
_EXACT = re.compile(r"cuda:[0-9]+(?:,(?:cuda:)?[0-9]+)*", re.ASCII)
_MANAGED = re.compile(r"(?:cuda:)?[0-9]+", re.ASCII)
# No machine has a billion GPUs, and Python refuses to read numbers of thousands of digits.
_MOST_DIGITS = 9


class DeviceChoice(Enum):
    """Who chooses the devices of a request."""

    CPU = "cpu"
    """Nobody: it needs no GPU."""
    ANY = "any"
    """The scheduler: any `count` GPUs."""
    EXACT = "exact"
    """The caller: exactly the GPUs `indices`."""

    # By identity: what Enum offers is Python code, and the scheduler hashes members all the time.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """What a device string asks for."""

    kind: DeviceChoice
    count: int
    """How many GPUs; 0 for the CPU."""
    indices: tuple[int, ...] = ()
    """The logical GPUs in the caller's order, if `kind` is EXACT; else empty."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Looked up by at every request; and the same in every process, unlike an Enum's hash.
        object.__setattr__(self, "_hash", hash((self.count, self.indices)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def is_cpu(self) -> bool:
        """Whether it needs no GPU."""
        return self.kind is DeviceChoice.CPU

    def __str__(self) -> str:
        if self.kind is DeviceChoice.EXACT:
            return device_names(self.indices)
        if self.is_cpu:
            return "cpu"
        return "cuda" if self.count == 1 else f"cudax{self.count}"


def parse_device(text: str) -> DeviceSpec:
    """Read a device string.

    Args:
        text: ``cpu``, ``cuda``, ``cudaxN``, ``cuda:I``, ``cuda:I,J`` or ``cuda:I,cuda:J``; space
            around it is allowed, N is at least 1, no index stands twice.

    Raises:
        InvalidDevice: anything else.
    """
    spec = _read(text.strip()) if isinstance(text, str) else None
    if spec is None:
        raise InvalidDevice(f"{text!r} is not a device; write {_FORMS}")
    return spec


def parse_managed_devices(text: str) -> tuple[int, ...]:
    """Read a list of managed devices: ``"cuda:0,cuda:1"`` or ``"0,1"``.

    Space around an element is allowed. Returns the logical indices in ascending order.

    Raises:
        InvalidDevice: empty, an empty element, another prefix, no number, or an index twice.
    """
    parts = [part.strip() for part in text.split(",")] if isinstance(text, str) else [""]
    if all(_MANAGED.fullmatch(part) for part in parts):
        indices = _indices(",".join(parts))
        if indices is not None:
            return tuple(sorted(indices))
    raise InvalidDevice(
        f"{text!r} is not a list of devices; write 'cuda:0,cuda:1' or '0,1', each device once"
    )


def device_names(indices: tuple[int, ...]) -> str:
    """Return the device string of these GPUs: ``"cuda:0,cuda:1"``, or ``"cpu"`` for none."""
    return ",".join(f"cuda:{index}" for index in indices) or "cpu"


def _read(text: str) -> DeviceSpec | None:
    if text == "cpu":
        return DeviceSpec(DeviceChoice.CPU, 0)
    any_of = _ANY.fullmatch(text)
    if any_of is not None:
        digits = any_of.group(1) or "1"
        return DeviceSpec(DeviceChoice.ANY, int(digits)) if len(digits) <= _MOST_DIGITS else None
    indices = _indices(text) if _EXACT.fullmatch(text) else None
    return None if indices is None else DeviceSpec(DeviceChoice.EXACT, len(indices), indices)


def _indices(text: str) -> tuple[int, ...] | None:
    """Return the indices of a comma list, or None if one stands twice or is beyond reason."""
    digits = text.replace("cuda:", "").split(",")
    if any(len(each) > _MOST_DIGITS for each in digits):
        return None
    indices = tuple(map(int, digits))
    return indices if len(set(indices)) == len(indices) else None
