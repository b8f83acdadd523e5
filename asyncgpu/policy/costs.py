"""What a cost may be: a finite number of at least zero, in any unit, the same for all items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from numbers import Real

from ..errors import InvalidRequest

__all__ = ["are_uniform", "read_cost", "read_costs"]


def read_costs(costs: Iterable[object]) -> list[float]:
    """Return the costs as floats, once every one of them has been looked at.

    Raises:
        InvalidRequest: a cost is no number, negative, NaN or infinite (the message names its index
            and its value), or the sum of all is too large for a float.
    """
    given = list(costs)
    # Ten thousand costs pass through here before anything starts, so plain numbers are judged
    # together; only if that finds something, one by one.
    if set(map(type, given)) <= {int, float}:
        numbers = _as_floats(given)
        if numbers and _are_sound(numbers):
            return numbers
    numbers = [read_cost(index, value) for index, value in enumerate(given)]
    if not isfinite(sum(numbers)):
        raise InvalidRequest(f"the {len(numbers)} costs add up to infinity; use a larger unit")
    return numbers


def read_cost(index: int, value: object) -> float:
    """Return one cost as a float.

    Raises:
        InvalidRequest: it is no number, negative, NaN or infinite; the message names `index`.
    """
    # `True` is a number to Python and a mistake to everybody else.
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidRequest(f"cost of item {index}: {value!r} is not a number")
    try:
        cost = float(value)
    except OverflowError:
        raise InvalidRequest(f"cost of item {index}: {value!r} is too large") from None
    if not (isfinite(cost) and cost >= 0):
        raise InvalidRequest(f"cost of item {index}: {value!r} is not finite and at least 0")
    return cost


def are_uniform(costs: Sequence[float]) -> bool:
    """Return whether all costs are the same; there may be none."""
    return not costs or costs.count(costs[0]) == len(costs)


def _are_sound(costs: Sequence[float]) -> bool:
    # The sum is not finite if one of them is not. Equal ones need one look, not a search for
    # the least.
    return isfinite(sum(costs)) and (costs[0] if are_uniform(costs) else min(costs)) >= 0


def _as_floats(values: Sequence[object]) -> list[float]:
    """Return plain numbers as floats; nothing, if one of them is too large for that."""
    try:
        return list(map(float, values))  # type: ignore[arg-type]
    except OverflowError:
        return []
