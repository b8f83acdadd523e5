"""The text that describes virtual devices: ``"2x8GiB"`` or ``"8GiB,4GiB"``."""

from __future__ import annotations

import re

from ...errors import InvalidRequest
from ...units import parse_size

__all__ = ["VARIABLE", "format_spec", "parse_spec"]

VARIABLE = "ASYNCGPU_VIRTUAL_DEVICES"

# More than the largest machine anybody simulates; a slip such as "8GiBx2" read as a count would
# otherwise ask for billions of devices.
_MOST_DEVICES = 4096

_GROUP = re.compile(r"\s*(?:([0-9]+)\s*x)?\s*([^\s,x][^,x]*)", re.ASCII)


def parse_spec(text: str) -> tuple[int, ...]:
    """Return the size of each device in bytes, in logical order.

    Args:
        text: groups ``NxSIZE`` or ``SIZE``, separated by commas: ``"2x8GiB"``, ``"8GiB,2x4GiB"``.

    Raises:
        InvalidRequest: `text` is not of this form, or names no device, or too many.
    """
    sizes: list[int] = []
    for group in text.split(","):
        match = _GROUP.fullmatch(group)
        if match is None:
            raise _unreadable(text)
        count = int(match[1] or 1)
        try:
            size = parse_size(match[2])
        except InvalidRequest:
            raise _unreadable(text) from None
        if count < 1 or size < 1 or len(sizes) + count > _MOST_DEVICES:
            raise _unreadable(text)
        sizes += [size] * count
    return tuple(sizes)


def format_spec(sizes: tuple[int, ...]) -> str:
    """Return the text that `parse_spec` reads back as `sizes`."""
    return ",".join(str(size) for size in sizes)


def _unreadable(text: str) -> InvalidRequest:
    return InvalidRequest(
        f"{VARIABLE}={text!r}: write a count and a size, such as '2x8GiB', or one size for each "
        f"device, such as '8GiB,4GiB' (1 to {_MOST_DEVICES} devices)"
    )
