"""torch's inference mode, switched for one step: a setting of the thread, like its stream."""

from __future__ import annotations

from typing import Any

__all__ = ["enter_inference", "leave_inference"]


def enter_inference() -> object:
    """Switch inference mode on for this thread; return what `leave_inference` takes."""
    # Imported even where nobody has yet: the step may do so itself, and must then find it on.
    import torch

    mode: Any = torch.inference_mode()
    mode.__enter__()
    return mode


def leave_inference(mode: Any) -> None:
    """Restore the mode from before; last entered, first left."""
    mode.__exit__(None, None, None)
