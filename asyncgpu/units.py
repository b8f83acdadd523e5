"""Sizes and times: ``"4GiB"`` or `int` bytes, every prefix a power of 1024; seconds as `float`.

``GB`` and ``GiB`` mean the same: GPU memory is sold, reported and allocated in powers of two, and
a library in which the two differ by seven per cent invites an out-of-memory error.
"""

from __future__ import annotations

import math
import re

from .errors import InvalidRequest

__all__ = ["GB", "KB", "MB", "Size", "format_size", "parse_size", "parse_timeout"]

KB = 1024
MB = 1024 * KB
GB = 1024 * MB
_TB = 1024 * GB

Size = int | str

_SCALE = {"": 1, "K": KB, "M": MB, "G": GB, "T": _TB}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?\s*", re.ASCII | re.IGNORECASE)


def parse_size(size: Size, *, what: str = "size") -> int:
    """Return `size` in bytes.

    Args:
        size: bytes as an `int`, or a string such as ``"512MB"``, ``"1.5GiB"``, ``"4096"``.
        what: names the quantity in the error.

    Raises:
        InvalidRequest: not a size, or negative.
    """
    if isinstance(size, str):
        match = _SIZE.fullmatch(size)
        if match is None:
            raise InvalidRequest(f"{what}: {size!r} is not a size; write 4096, '512MB' or '4GiB'")
        number, prefix = match.groups()
        scale = _SCALE[prefix.upper()]
        return int(number) * scale if number.isdigit() else int(float(number) * scale)
    # `True` is an int to Python and a mistake to everybody else.
    if isinstance(size, bool) or not isinstance(size, int):
        raise InvalidRequest(f"{what}: {size!r} is not a size; write 4096, '512MB' or '4GiB'")
    if size < 0:
        raise InvalidRequest(f"{what}: {size} bytes is negative")
    return size


def format_size(nbytes: int) -> str:
    """Return `nbytes` for people: ``"1.5 GiB"``."""
    for unit, scale in (("TiB", _TB), ("GiB", GB), ("MiB", MB), ("KiB", KB)):
        if abs(nbytes) >= scale:
            return f"{nbytes / scale:.4g} {unit}"
    return f"{nbytes} B"


def parse_timeout(seconds: float | None, *, what: str = "timeout") -> float | None:
    """Return `seconds`; None: no limit.

    Args:
        seconds: 0 or more; infinity is no limit, too.
        what: names the quantity in the error.

    Raises:
        InvalidRequest: negative, NaN, or not a number.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidRequest(f"{what}: {seconds!r} is not a number of seconds")
    if math.isnan(seconds) or seconds < 0:
        raise InvalidRequest(f"{what}: {seconds} seconds; it must be 0 or more")
    return None if math.isinf(seconds) else seconds
