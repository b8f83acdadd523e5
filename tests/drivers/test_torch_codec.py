"""Tensors cross bit for bit, with their memory out of band."""

from __future__ import annotations

import pickle

import pytest
import torch

from asyncgpu.drivers.codec import TorchCodec
from asyncgpu.workers.pickling import Pickling

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.bool,
    torch.uint8,
    torch.int64,
    torch.complex64,
]


def carry(value):
    """Return the value as it arrives, and the sizes of the buffers that crossed beside it."""
    body, buffers = Pickling([TorchCodec()]).dumps(value)
    sizes = [buffer.nbytes for buffer in buffers]
    return pickle.loads(body, buffers=[bytearray(buffer) for buffer in buffers]), sizes


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().flatten().view(torch.uint8).tolist())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (7,), (5, 3)])
def test_every_dtype_and_shape(dtype, shape):
    tensor = torch.randint(0, 2, shape).to(dtype)
    back, _ = carry(tensor)
    assert type(back) is torch.Tensor
    assert (back.dtype, back.shape) == (dtype, tensor.shape)
    if tensor.numel():
        assert bits(back) == bits(tensor)


def test_large_tensors_are_a_buffer():
    tensor = torch.arange(100_000, dtype=torch.bfloat16)
    back, sizes = carry([tensor])
    assert sizes == [200_000]
    assert torch.equal(back[0], tensor)
    back[0][0] = 5  # writable, like any tensor


def test_small_tensors_stay_in_the_pickle():
    _, sizes = carry(torch.zeros(10))
    assert sizes == []


def test_a_view_takes_only_its_own_bytes_along():
    big = torch.zeros(1_000_000)
    assert carry(big[:100_000])[1] == [400_000]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(300, 400).t(),
        torch.randn(300, 400)[::2, ::3],
        torch.randn(5).expand(300, 5),
        torch.randn(2, 3, 40, 50).to(memory_format=torch.channels_last),
        torch.randn(50, 60, dtype=torch.complex64).conj(),
        torch.randn(50, 60, dtype=torch.complex64).conj().imag,
    ],
    ids=["transposed", "strided", "expanded", "channels last", "conjugate", "negative"],
)
def test_values_do_not_depend_on_the_layout(tensor):
    assert torch.equal(carry(tensor)[0], tensor)


def test_nan_payloads_and_signed_zeros_survive():
    pattern = torch.tensor([0x7FC00001, 0x7F800001, -0x80000000], dtype=torch.int32)
    back, _ = carry(pattern.view(torch.float32))
    assert torch.equal(back.view(torch.int32), pattern)


def test_requires_grad_survives_and_the_graph_does_not():
    leaf = torch.randn(3, requires_grad=True)
    back, _ = carry((leaf, leaf * 2))
    assert [tensor.requires_grad for tensor in back] == [True, True]
    assert [tensor.grad_fn for tensor in back] == [None, None]


def test_parameters_stay_parameters():
    module = torch.nn.Linear(300, 200)
    module.bias.requires_grad_(False)
    back, sizes = carry(module)
    assert sizes == [240_000]
    assert type(back.weight) is torch.nn.Parameter
    assert torch.equal(back.weight, module.weight)
    assert (back.weight.requires_grad, back.bias.requires_grad) == (True, False)


def test_one_tensor_twice_arrives_as_one():
    tensor = torch.randn(4)
    back, _ = carry([tensor, tensor])
    assert back[0] is back[1]


def test_inference_tensors_cross():
    with torch.inference_mode():
        tensor = torch.randn(4)
    assert torch.equal(carry(tensor)[0], tensor)


class Tagged(torch.Tensor):
    """A subclass keeps its own way of being pickled."""


def test_other_kinds_go_torchs_own_way():
    sparse = torch.eye(3).to_sparse()
    assert torch.equal(carry(sparse)[0].to_dense(), torch.eye(3))
    tagged = torch.randn(3).as_subclass(Tagged)
    assert type(carry(tagged)[0]) is Tagged
    annotated = torch.randn(3)
    annotated.note = "kept"
    assert carry(annotated)[0].note == "kept"
