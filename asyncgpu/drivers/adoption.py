"""Aliases of tensors: the same memory under a storage of its own, whose end can be seen.

torch frees memory when the last storage that owns it goes. An alias here has a storage that does
not own its memory, and every view of the alias shares that storage. So the end of that one object
is the last drop of all of them; what owns the memory is handed out then, to be dropped when the
device is done with it. Note 11 of the design notes compares this with the other ways.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import InvalidRequest
from ..ports import Leaf

__all__ = ["aliases"]


def aliases(
    leaves: Sequence[Leaf],
    device: str,
    let_go: Callable[[object], object],
    *,
    elsewhere: Callable[[Any], str | None] = lambda storage: None,
) -> list[object]:
    """Return the objects of `leaves`, each tensor as its alias; see `ports.Driver.alias`.

    Args:
        leaves: objects and their places.
        device: what torch calls the device that they must be on.
        let_go: is given what owns a memory, at the end of its aliases.
        elsewhere: names the device that a storage is really on, where torch calls it the same.
    """
    import torch

    for leaf in leaves:
        if isinstance(leaf.value, torch.Tensor):
            _check(torch, leaf.place, leaf.value, torch.device(device), elsewhere)
    borrowed: dict[int, Any] = {}
    # An alias is no new memory: a dispatch mode that counts what operators make must not see it.
    with torch._C._DisableTorchDispatch():
        return [
            _alias(torch, leaf.value, borrowed, let_go)
            if isinstance(leaf.value, torch.Tensor)
            else leaf.value
            for leaf in leaves
        ]


def _check(
    torch: Any, place: str, tensor: Any, device: Any, elsewhere: Callable[[Any], str | None]
) -> None:
    if tensor.device != device:
        raise InvalidRequest(f"{place} is on {tensor.device}, not on {device}: move it first")
    if tensor.requires_grad:
        raise InvalidRequest(
            f"{place} requires grad, and no gradient crosses contexts: adopt its detach()"
        )
    subclassed = type(tensor).__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl
    strided = tensor.layout == torch.strided and not tensor.is_nested
    if subclassed or not strided or tensor.is_quantized:
        raise InvalidRequest(
            f"{place} has no plain memory of its own ({type(tensor).__name__}, {tensor.layout}, "
            f"{tensor.dtype}): adopt the tensors that it is made of"
        )
    if (other := elsewhere(tensor.untyped_storage())) is not None:
        raise InvalidRequest(f"{place} is on {other}, and this context is not: move it first")


def _alias(
    torch: Any, tensor: Any, borrowed: dict[int, Any], let_go: Callable[[object], object]
) -> Any:
    owner = tensor.untyped_storage()
    # Tensors that share memory go on sharing it.
    storage = borrowed.get(owner._cdata)
    if storage is None:
        storage = borrowed[owner._cdata] = _borrow(torch, owner, let_go)
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
        storage, tensor.storage_offset(), tensor.size(), tensor.stride()
    )
    # Conjugated and negated tensors have a bit set instead of other memory.
    alias = alias.conj() if tensor.is_conj() else alias
    return alias._neg_view() if tensor.is_neg() else alias


def _borrow(torch: Any, owner: Any, let_go: Callable[[object], object]) -> Any:
    """Return a storage over the memory of `owner`, which is handed to `let_go` at its end."""
    storage = torch._C._construct_storage_from_data_pointer(
        owner.data_ptr(), owner.device, owner.nbytes()
    )
    # torch keeps a storage's Python object for as long as any tensor has the storage.
    end = weakref.finalize(storage, let_go, owner)
    end.atexit = False  # a program that ends has nothing to wait for
    return storage
