"""Storages that grow in place, and what they were before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from .tensors import plain_tensors

__all__ = ["Growth"]


class Growth:
    """Watches the storages of some tensors while an operator runs on them."""

    def __init__(self, targets: Any, args: Any) -> None:
        """Remember how large they are.

        Args:
            targets: the tensors that the operator may change.
            args: its arguments, of which some may be storages.
        """
        self._views = [_view(tensor) for tensor in plain_tensors(targets) if tensor.is_cpu]
        watched = [view.storage for view in self._views]
        watched += [each for each in args if isinstance(each, torch.UntypedStorage)]
        self._sizes = {id(storage): (storage, storage.nbytes()) for storage in watched}

    def grown(self) -> Iterator[tuple[Any, int]]:
        """Yield each storage that has grown, with the bytes it has grown by."""
        for storage, before in self._sizes.values():
            if storage.nbytes() > before:
                yield storage, storage.nbytes() - before

    def undo(self) -> None:
        """Give the tensors their storages back, and the storages their sizes."""
        for view in self._views:
            view.tensor.set_(view.storage, view.offset, view.shape, view.strides)
        for storage, before in self._sizes.values():
            if storage.nbytes() > before:
                storage.resize_(before)


class _View(NamedTuple):
    """How a tensor lies in its storage."""

    tensor: torch.Tensor
    storage: Any
    offset: int | torch.SymInt
    shape: torch.Size
    strides: tuple[int, ...]


def _view(tensor: torch.Tensor) -> _View:
    storage = tensor.untyped_storage()
    return _View(tensor, storage, tensor.storage_offset(), tensor.size(), tensor.stride())
