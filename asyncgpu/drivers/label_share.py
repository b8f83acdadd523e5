"""A compute share that nothing enforces: the virtual driver's, and CUDA's where it must be."""

from __future__ import annotations

__all__ = ["LabelShare"]


class LabelShare:
    """A `ComputeShare` in name: work with it uses the whole device.

    Args:
        share: what was asked for.
    """

    enforced = False
    sm_count = None

    def __init__(self, share: float) -> None:
        self.granted = share

    def close(self) -> None:
        """Nothing was taken."""
