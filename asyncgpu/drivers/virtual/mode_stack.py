"""torch's stack of dispatch modes in this thread, and our place in it: always at the bottom.

A task may enter a mode of its own and leave it many steps later. Were ours above it then, leaving
would take ours away. Below all of them it is in nobody's way, and it sees what is really run: an
operator that some mode answers without memory never reaches it.

The calls are torch's private ones: its own ``with mode:`` takes three times as long, and stands in
every step of every task in a session.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["insert_mode", "remove_mode"]

_length = torch._C._len_torch_dispatch_stack
_push: Any = torch._C._push_on_torch_dispatch_stack
_pop: Any = torch._C._pop_torch_dispatch_stack


def insert_mode(mode: object) -> None:
    """Put `mode` below all modes that are entered in this thread."""
    if _length():
        _refill([mode, *_taken_off(mode)])
    else:
        _push(mode)


def remove_mode(mode: object) -> None:
    """Take `mode` out, wherever it is; the others stay as they are."""
    if _length():
        top = _pop(None)
        if top is mode:
            return
        _push(top)
        _refill(_taken_off(mode))


def _taken_off(mode: object) -> list[object]:
    """Empty the stack; return what was on it, lowest first, without `mode`."""
    entered = [torch._C._get_dispatch_stack_at(place) for place in range(_length())]
    # torch's own modes (fake tensors, tracing) have places of their own, below the stack.
    entered = [each for each in entered if getattr(each, "_mode_key", None) is None]
    for _ in entered:
        _pop(None)
    return [each for each in entered if each is not mode]


def _refill(modes: list[object]) -> None:
    for mode in modes:
        _push(mode)
