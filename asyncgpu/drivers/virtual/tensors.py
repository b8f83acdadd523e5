"""The storages behind whatever an operator takes or returns."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["plain_tensors", "storages"]

_Tensor = torch.Tensor
_strided = torch.strided
# What `Tensor` itself has: its operators are torch's own, on memory of its own.
_PLAIN = torch.Tensor.__torch_dispatch__
_CONTAINERS = (list, tuple, dict)

# Layouts whose tensors consist of plain ones.
_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


def storages(value: Any) -> dict[int, Any]:
    """Return the storages in host memory of all tensors in `value`, however deep, by identity."""
    found = {}
    for tensor in plain_tensors(value):
        if tensor.is_cpu:
            storage = tensor.untyped_storage()
            found[id(storage)] = storage
    return found


def plain_tensors(value: Any) -> list[torch.Tensor]:
    """Return the strided tensors that `value` is made of: nested containers, sparse, subclasses.

    Tensors without memory (fake ones) and with memory that nobody can ask for are left out.
    """
    tensors: list[torch.Tensor] = []
    _collect(value, tensors)
    return tensors


def _collect(value: Any, tensors: list[torch.Tensor]) -> None:
    # The usual types first: every argument of every operator comes by here.
    kind = type(value)
    if kind is _Tensor and value.layout is _strided:
        tensors.append(value)
    elif kind is tuple or kind is list:
        for each in value:
            _collect(each, tensors)
    elif isinstance(value, _Tensor):
        _collect_parts(value, tensors)
    elif isinstance(value, _CONTAINERS):
        _collect(list(value.values() if isinstance(value, dict) else value), tensors)


def _collect_parts(value: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    if type(value).__torch_dispatch__ is not _PLAIN:
        if hasattr(value, "__tensor_flatten__"):
            for name in value.__tensor_flatten__()[0]:
                _collect(getattr(value, name), tensors)
    elif value.layout is _strided:
        tensors.append(value)
    else:
        tensors.extend(getattr(value, part)() for part in _PARTS.get(value.layout, ()))
