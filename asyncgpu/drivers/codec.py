"""torch's CPU tensors, carried with their memory out of band.

Left to itself, pickle writes a tensor's bytes into the stream through `torch.save`, three copies of
them. Here a tensor is its metadata and a buffer. Only plain tensors and parameters in ordinary
memory are taken; for all others (subclasses, sparse, quantized, on a GPU) torch's own way stands.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["TorchCodec"]


class TorchCodec:
    """Implements `Codec` for torch. Asked only in a process that has imported torch itself."""

    module = "torch"

    def reducers(self) -> Mapping[type, Callable[[Any], Any]]:
        """Return what to do with `torch.Tensor` and `torch.nn.Parameter`, exactly these."""
        import torch

        return {torch.Tensor: _reduce_tensor, torch.nn.Parameter: _reduce_parameter}


def _reduce_tensor(tensor: Any) -> Any:
    if not _is_plain(tensor):
        return tensor.__reduce_ex__(5)
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous()
    arguments = (_memory(dense), tensor.dtype, tuple(tensor.shape), tensor.requires_grad)
    return _make_tensor, arguments


def _reduce_parameter(parameter: Any) -> Any:
    if not _is_plain(parameter):
        return parameter.__reduce_ex__(5)
    return _make_parameter, (parameter.detach(), parameter.requires_grad)


def _is_plain(tensor: Any) -> bool:
    import torch

    return (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and not tensor.is_nested
        # Attributes and hooks that somebody has hung on it.
        and not vars(tensor)
        and not tensor._backward_hooks
    )


def _memory(dense: Any) -> pickle.PickleBuffer | None:
    """Return the tensor's own memory: no numpy needed, and every dtype has bytes."""
    import ctypes

    nbytes = dense.numel() * dense.element_size()
    if not nbytes:
        return None
    memory = (ctypes.c_ubyte * nbytes).from_address(dense.data_ptr())
    # The array knows only an address; this keeps what lies there.
    memory.owner = dense
    return pickle.PickleBuffer(memory)


def _make_tensor(memory: Any, dtype: Any, shape: tuple[int, ...], requires_grad: bool) -> Any:
    import torch

    if memory is None:
        tensor = torch.empty(shape, dtype=dtype)
    else:
        tensor = torch.frombuffer(memory, dtype=torch.uint8).view(dtype).reshape(shape)
    return tensor.requires_grad_(requires_grad)


def _make_parameter(data: Any, requires_grad: bool) -> Any:
    import torch

    return torch.nn.Parameter(data, requires_grad)
