"""What the virtual driver counts: the storages that torch's operators make, and nothing else."""

from __future__ import annotations

import copy
import io
import resource
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from asyncgpu.drivers.virtual.segments import rounded
from asyncgpu.errors import OutOfDeviceMemory
from asyncgpu.units import GB, MB

from .virtual_bench import VirtualContext

N = 1000
# Bytes of N floats, in whole blocks.
ROW = rounded(4 * N)


@pytest.fixture
def context():
    context = VirtualContext(cap=256 * MB)
    yield context
    assert (context.live, context.used) == (0, 0), "not back at its start"
    context.driver.close()


@pytest.fixture
def outside():
    return torch.ones(N)


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


NEW = {
    "empty": (lambda x: torch.empty(N), ROW),
    "full of integers": (lambda x: torch.full((N,), 7), rounded(8 * N)),
    "random integers": (lambda x: torch.randint(9, (N,)), rounded(8 * N)),
    "another type": (lambda x: x.to(torch.float64), rounded(8 * N)),
    "strided": (lambda x: torch.empty_strided((2, 2), (N, 1)), rounded(4 * (N + 2))),
    "new from old": (lambda x: x.new_zeros(N, dtype=torch.int8), rounded(N)),
    "like": (lambda x: torch.randn_like(x), ROW),
    "an expanded tensor made real": (lambda x: x.expand(5, N).contiguous(), rounded(20 * N)),
    "a range": (lambda x: torch.arange(N), rounded(8 * N)),
    "clone": (lambda x: x.clone(), ROW),
    "arithmetic": (lambda x: x + 1, ROW),
    "an input given twice": (lambda x: torch.add(x, x), ROW),
    "a view of something new": (lambda x: (x + 1)[5:], ROW),
    "two results": (lambda x: torch.sort(x), ROW + rounded(8 * N)),
    "a list of results": (lambda x: torch._foreach_add([x, x, x], 1), 3 * ROW),
    "views of one result": (lambda x: x.clone().split(10), ROW),
    "from numbers": (lambda x: torch.tensor([1.0] * N), ROW),
    "from numpy": (lambda x: torch.from_numpy(np.ones(N, np.float32)), ROW),
    "a parameter": (lambda x: torch.nn.Parameter(torch.empty(N)), ROW),
    "a deep copy": (copy.deepcopy, ROW),
    "a deep copy of a module": (
        lambda x: copy.deepcopy(torch.nn.Linear(N, 1, bias=False)),
        ROW,
    ),
    "loaded": (lambda x: torch.load(saved(x)), ROW),
    "loaded, two views of one": (lambda x: torch.load(saved([x, x[5:]])), ROW),
    "resized": (lambda x: torch.empty(0).resize_(N), ROW),
    "grown": (lambda x: torch.empty(128).resize_(256), 1024),
    "an empty out": (lambda x: torch.add(x, 1, out=torch.empty(0)), ROW),
    "set to another": (lambda x: torch.empty(5).set_(x.clone()), ROW),
    "sparse": (lambda x: x[:128].to_sparse(), 128 * (8 + 4)),
    "compressed": (lambda x: x.view(10, 100).to_sparse_csr(), 512 + rounded(16 * N) + ROW),
    "inside vmap": (lambda x: torch.vmap(lambda row: row * 2)(x.view(10, 100)), ROW),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize(("make", "nbytes"), NEW.values(), ids=NEW)
@pytest.mark.parametrize("inference", [False, True], ids=["", "inference"])
def test_new_storages_are_counted_once(context, outside, make, nbytes, inference):
    with context.applied(), torch.inference_mode(inference):
        made = make(outside)
        assert context.live == nbytes
    assert context.live == nbytes
    del made


OLD = {
    "a view": lambda x: x.view(10, 100).t()[3:],
    "in place": lambda x: x.add_(1),
    "a full out": lambda x: torch.add(x, 1, out=x),
    "detached": lambda x: x.detach(),
    "no change of type": lambda x: x.to(torch.float32),
    "set to another": lambda x: torch.tensor_split(x, 3),
    "a parameter": lambda x: torch.nn.Parameter(x),
    "its storage": lambda x: x.untyped_storage(),
    "shrunk": lambda x: x.resize_(10),
    "no elements": lambda x: torch.empty(0),
    "without memory": lambda x: torch.empty(10**15, device="meta"),
    "random in place": lambda x: x.uniform_(),
    "a number": lambda x: x.sum().item(),
}


@pytest.mark.parametrize("make", OLD.values(), ids=OLD)
def test_views_and_what_was_made_outside_cost_nothing(context, outside, make):
    with context.applied():
        made = make(outside)
        assert context.live == 0
    del made


def test_a_storage_made_here_and_used_there_is_charged_here(context):
    other = VirtualContext(beside=context)
    with context.applied():
        made = torch.empty(N)
    with other.applied():
        view = made.view(-1)
        copied = torch.empty(0).set_(made.untyped_storage(), 0, (5,))
    assert (context.live, other.live) == (ROW, 0)
    del made
    assert context.live == ROW
    del view, copied


def test_who_lets_a_storage_grow_pays_for_the_growth(context):
    other, outside = VirtualContext(beside=context), torch.ones(N)
    with context.applied():
        made = torch.empty(N)
    with other.applied():
        made.resize_(3 * N)
        outside.resize_(2 * N)
    assert context.live == ROW
    assert other.live == rounded(8 * N) + ROW
    del made, outside
    assert other.live == 0


def test_a_graph_is_charged_until_backward_frees_it(context, outside):
    with context.applied():
        weight = torch.nn.Parameter(outside)
        loss = (weight.exp() * 2).sum()
        assert context.live == ROW + 512
        loss.backward()
        assert context.live == ROW + 512, "the graph is gone, the gradient is there"
    del weight, loss


def test_jagged_tensors_count_by_what_they_are_made_of(context, outside):
    with context.applied():
        made = torch.nested.nested_tensor([outside, outside], layout=torch.jagged)
        before = context.live
        added = made + 1
        assert context.live - before == rounded(8 * N)
        assert before >= rounded(8 * N)
    del made, added


def test_fake_tensors_take_nothing_whichever_comes_first(context):
    fake = FakeTensorMode()
    with context.applied(), fake:
        assert (torch.empty(10**12) + 1).numel() == 10**12
        assert context.live == 0
    with fake, context.applied():
        assert (torch.empty(10**12) + 1).numel() == 10**12
        assert context.live == 0


# ------------------------------------------------------------------------------- refusals


REFUSED = {
    "known beforehand": lambda x: torch.empty(100 * MB),
    "a result": lambda x: x.view(N, 1).expand(N, 80 * N) + 1,
    "resized": lambda x: torch.empty(10).resize_(100 * MB),
    "the second of two": lambda x: torch._foreach_add([x.expand(40 * N, N)] * 2, 1),
    "more than the host has": lambda x: x.expand(10**9, N).contiguous(),
    "more than the host has, unforeseen": lambda x: torch.arange(10**15),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_torchs_own_error_and_names_the_device(context, outside, make):
    with (
        context.applied(),
        pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory.*cuda:0"),
    ):
        make(outside)
    assert context.live == 0


def test_a_refused_result_is_dropped_at_once(context, outside):
    """Not when the exception is."""
    with context.applied():
        try:
            outside.view(N, 1).expand(N, 80 * N) + 1
        except torch.OutOfMemoryError as raised:
            frames, traceback = [], raised.__traceback__
            while traceback is not None:
                frames.append(traceback.tb_frame)
                traceback = traceback.tb_next
            tensors = [
                v for f in frames for v in f.f_locals.values() if isinstance(v, torch.Tensor)
            ]
            assert all(tensor is outside for tensor in tensors)
            del tensors, frames, traceback


def test_a_refused_growth_leaves_the_tensor_as_it_was(context):
    with context.applied():
        grown, out = torch.arange(10), torch.empty(0)
        with pytest.raises(torch.OutOfMemoryError):
            grown.resize_(100 * MB)
        with pytest.raises(torch.OutOfMemoryError):
            torch.add(torch.ones(10 * N, 1), torch.ones(1, 10 * N), out=out)
        assert grown.tolist() == list(range(10))
        assert out.shape == (0,)
        assert grown.untyped_storage().nbytes() == 80
        assert out.untyped_storage().nbytes() == 0
        assert context.live == 512
    del grown, out


def test_what_is_known_beforehand_takes_no_host_memory(context):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with context.applied():
        for make in (torch.zeros, torch.ones, torch.rand):
            with pytest.raises(torch.OutOfMemoryError):
                make(GB)
        with pytest.raises(torch.OutOfMemoryError):
            torch.full((GB,), 1.5)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < GB


def test_a_failing_operator_is_not_charged(context):
    with context.applied():
        with pytest.raises(RuntimeError, match="negative"):
            torch.zeros(-1)
        with pytest.raises(RuntimeError, match="size"):
            torch.ones(3) + torch.ones(4)
        with pytest.raises((RuntimeError, ValueError)):
            torch.ones(N).to(torch.float32, copy=True).view(7)
    assert context.live == 0


def test_a_full_device_can_be_scripted(context):
    other = VirtualContext(beside=context)
    context.driver.script.refuse_next_allocation("cuda:0", times=2)
    for each in (context, other):
        with each.applied(), pytest.raises(torch.OutOfMemoryError) as caught:
            torch.empty(N)
        error = each.memory.translated(caught.value, "reader")
        assert isinstance(error, OutOfDeviceMemory)
        assert (error.device, error.requested, error.available) == ("cuda:0", 4 * N, 0)
    with context.applied():
        assert torch.empty(N).numel() == N


def test_a_script_for_another_device_is_not_played_here(context):
    context.driver.script.refuse_next_allocation(1)
    with context.applied():
        torch.empty(N)


# --------------------------------------------------------------------- modes and compilers


def test_the_first_operator_does_not_import_the_compiler():
    """torch would, for seconds, in the middle of a session's step."""
    code = """
import sys, torch
from tests.drivers.virtual_bench import VirtualContext
context = VirtualContext()
with context.applied():
    torch.ones(3) + 1
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


def test_a_storage_that_ends_is_forgotten(context):
    with context.applied():
        made = torch.empty(N)
    storage = weakref.ref(made.untyped_storage())
    assert made.untyped_storage() in context.memory.claims
    del made
    assert storage() is None
    assert not context.memory.claims._claims
