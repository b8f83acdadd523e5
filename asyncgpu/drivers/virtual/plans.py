"""What the metering must know about an operator, read once from its schema."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .sizes import SizeRule, size_rule

__all__ = ["Plan", "plan_for"]

_GROWS_FIRST = frozenset(
    ("aten::resize_", "aten::resize_as_", "aten::_resize_output_", "aten::set_")
)


class Plan(NamedTuple):
    """How to meter one operator."""

    size: SizeRule | None = None
    """What it is going to make; None: it runs first."""
    targets: Callable[[Sequence[Any], Mapping[str, Any]], Any] | None = None
    """The tensors whose storage it may let grow or replace; None: it lets storages be."""
    lifts: bool = False
    """Its argument is a tensor just made without an operator."""
    loads: bool = False
    """Its storage argument is one just made without an operator."""


@functools.cache
def plan_for(operator: Any) -> Plan:
    """Return the plan for an operator as a dispatch mode is given it."""
    schema = getattr(operator, "_schema", None)
    if schema is None:
        # A higher-order operator: what it calls is not seen, what it returns is.
        return Plan()
    if schema.name in ("aten::lift_fresh", "aten::lift"):
        return Plan(lifts=True)
    if schema.name in _GROWS_FIRST:
        # Only the form with an offset attaches a storage for good. The shorter one is what torch
        # looks into somebody's storage with, to copy it.
        loads = schema.overload_name == "source_Storage_storage_offset"
        return Plan(targets=lambda args, kwargs: args[0], loads=loads)
    outs = [argument.name for argument in schema.arguments if argument.is_out]
    if outs:
        return Plan(targets=lambda args, kwargs: [kwargs[name] for name in outs])
    return Plan(size=size_rule(schema.name))
