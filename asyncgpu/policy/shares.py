"""Shares as exact fractions, so that sums of them are exact too.

In floats 1.0 - 0.2 - 0.2 - 0.2 is less than 0.4, and a share that fits would be refused. What a
caller writes as a float means the simple fraction next to it: 0.2 is 1/5, ``1 / 3`` is 1/3.
"""

from __future__ import annotations

import math
from fractions import Fraction

from ..errors import InvalidRequest

__all__ = ["parse_amount", "parse_share"]

# Finer than any hardware divides, and coarse enough that a float's last bits do not matter.
_FINEST = 1_000_000


def parse_share(share: float, *, what: str) -> Fraction:
    """Return a share of a whole as a fraction.

    Args:
        share: above 0, at most 1; not below a millionth.
        what: names the quantity in the error.

    Raises:
        InvalidRequest: anything else.
    """
    fraction = parse_amount(share, what=what)
    if not 0 < fraction <= 1:
        raise InvalidRequest(f"{what}: {share!r} is not a share; it must be above 0 and at most 1")
    return fraction


def parse_amount(amount: float, *, what: str) -> Fraction:
    """Return a number as a fraction, exact to a millionth.

    Args:
        amount: finite, 0 or more.
        what: names the quantity in the error.

    Raises:
        InvalidRequest: anything else.
    """
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not math.isfinite(amount):
        raise InvalidRequest(f"{what}: {amount!r} is not a finite number")
    if amount < 0:
        raise InvalidRequest(f"{what}: {amount!r} is negative")
    return Fraction(amount).limit_denominator(_FINEST)
