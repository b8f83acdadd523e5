"""How large a tensor an operator is going to make, where its arguments tell.

Asked before the operator runs, so that a request far beyond the budget takes no host memory. Where
nothing is said here the operator runs first, and its result is dropped if there is no room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

__all__ = ["SizeRule", "size_rule"]

SizeRule = Callable[[Sequence[Any], Mapping[str, Any]], int]
"""From an operator's arguments to the bytes of its result in host memory; 0: not known."""

# Operators that take a shape, by the position of that argument.
_SHAPED = {
    **dict.fromkeys(("empty", "zeros", "ones", "full", "rand", "randn", "empty_permuted"), 0),
    **dict.fromkeys(("new_empty", "new_zeros", "new_ones", "new_full"), 1),
    "randint": -1,
}
_STRIDED = {"empty_strided": 0, "new_empty_strided": 1}
# Operators that take a tensor and make another one of its shape.
_LIKE = {"clone", "_to_copy", "empty_like", "zeros_like", "ones_like", "full_like"}
_LIKE |= {"rand_like", "randn_like", "randint_like"}


def size_rule(operator: str) -> SizeRule | None:
    """Return the rule for an operator, by its name in the schema: ``"aten::zeros"``."""
    name = operator.removeprefix("aten::")
    if name == operator:
        return None
    if name in _LIKE:
        return _like
    if name in _SHAPED:
        return _shaped(name, _SHAPED[name])
    if name in _STRIDED:
        return _strided(_STRIDED[name])
    return None


def _shaped(name: str, place: int) -> SizeRule:
    def rule(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
        return _bytes(math.prod(args[place]), name, args, kwargs)

    return rule


def _strided(place: int) -> SizeRule:
    def rule(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
        shape, strides = args[place], args[place + 1]
        span = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=False))
        return _bytes(0 if 0 in shape else span, "empty_strided", args, kwargs)

    return rule


def _like(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    return _bytes(args[0].numel(), "like", args, kwargs)


def _bytes(count: int, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    model = args[0] if args and isinstance(args[0], torch.Tensor) else None
    if not _in_host_memory(model, kwargs) or torch._C._get_dispatch_mode(_FAKE) is not None:
        return 0
    dtype = kwargs.get("dtype")
    if dtype is None:
        dtype = _default_dtype(name, args) if model is None else model.dtype
    return int(count * dtype.itemsize)


def _in_host_memory(model: torch.Tensor | None, kwargs: Mapping[str, Any]) -> bool:
    layout, device = kwargs.get("layout"), kwargs.get("device")
    if model is not None:
        layout = layout or model.layout
        device = device or model.device
    return (device is None or device.type == "cpu") and layout in (None, torch.strided)


def _default_dtype(name: str, args: Sequence[Any]) -> torch.dtype:
    if name == "randint":
        return torch.int64
    if name == "full":
        return _OF_FILL.get(type(args[1]), torch.get_default_dtype())
    return torch.get_default_dtype()


_OF_FILL = {bool: torch.bool, int: torch.int64, complex: torch.complex64}

# Where it is on, what runs below allocates nothing.
_FAKE = torch._C._TorchDispatchModeKey.FAKE
