"""The counting lives beside the dispatch modes of user code, and gives way to them."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from asyncgpu.drivers.virtual.segments import rounded
from asyncgpu.errors import InvalidRequest, InvalidTransition
from asyncgpu.units import GB, MB

from .virtual_bench import VirtualContext

N = 1000
ROW = rounded(4 * N)


class Recorder(TorchDispatchMode):
    """A mode of user code: it writes down what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    @classmethod
    def _should_skip_dynamo(cls):
        """Or torch imports its compiler at the first operator, which takes seconds."""
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def context():
    context = VirtualContext()
    yield context
    assert entered() == []
    assert context.live == 0
    context.driver.close()


def entered():
    length = torch._C._len_torch_dispatch_stack()
    return [torch._C._get_dispatch_stack_at(place) for place in range(length)]


def test_a_mode_inside_sees_everything_and_so_does_the_count(context):
    with context.applied():
        mode = Recorder()
        with mode:
            made = torch.empty(N)
        assert mode.seen == [torch.ops.aten.empty.memory_format]
        assert context.live == ROW
    del made


def test_a_mode_around_sees_everything_and_so_does_the_count(context):
    mode = Recorder()
    with mode:
        with context.applied():
            made = torch.empty(N)
        assert entered() == [mode]
    assert mode.seen == [torch.ops.aten.empty.memory_format]
    assert context.live == ROW
    del made


def test_a_mode_entered_in_one_step_may_be_left_in_another(context):
    first, second = Recorder(), Recorder()
    with context.applied():
        first.__enter__()
    assert entered() == [first]
    with context.applied():
        made = [torch.empty(N)]
        second.__enter__()
        made.append(torch.empty(N))
    assert entered() == [first, second]
    with context.applied():
        second.__exit__(None, None, None)
        first.__exit__(None, None, None)
        made.append(torch.empty(N))
    assert (len(first.seen), len(second.seen)) == (2, 1)
    assert context.live == 3 * ROW
    del made


def test_a_mode_entered_in_a_step_stays_for_the_thread_as_without_a_session(context):
    mode = Recorder()
    with context.applied():
        mode.__enter__()
    torch.empty(N)
    assert len(mode.seen) == 1
    mode.__exit__(None, None, None)


def test_a_step_that_switches_all_modes_off_ends_without_a_trace(context):
    around, off = Recorder(), _disable_current_modes()
    with around:
        with context.applied():
            off.__enter__()
            torch.empty(N)
        assert entered() == []
        off.__exit__(None, None, None)
        with context.applied():
            made = torch.empty(N)
        assert entered() == [around]
        assert context.live == ROW
    del made


def test_nested_contexts_put_one_mode_on_the_stack(context):
    other = VirtualContext(beside=context)
    with context.applied():
        outer = entered()
        with other.applied(), context.applied(), other.applied():
            assert entered() == outer
            made = torch.empty(N)
        with context.applied():
            assert entered() == outer
    assert (context.live, other.live) == (0, ROW)
    del made


def test_an_apply_without_memory_touches_no_mode(context):
    token = context.driver.apply(context.stream)
    assert entered() == []
    context.driver.undo(token)


def test_undo_out_of_order_changes_no_memory(context):
    other = VirtualContext(beside=context)
    outer = context.driver.apply(context.stream, memory=context.memory)
    inner = context.driver.apply(context.stream, memory=other.memory)
    with pytest.raises(InvalidTransition, match="out of order"):
        context.driver.undo(outer)
    made = torch.empty(N)
    assert (context.live, other.live) == (0, ROW)
    context.driver.undo(inner)
    context.driver.undo(outer)
    del made


def test_a_closed_memory_is_not_applied(context):
    other = VirtualContext(beside=context)
    other.memory.close()
    with pytest.raises(InvalidRequest, match="closed"):
        context.driver.apply(context.stream, inference=True, memory=other.memory)
    assert not torch.is_inference_mode_enabled()
    assert context.driver.current_stream(0) is None


def test_only_virtual_memory_can_be_applied(context):
    with pytest.raises(InvalidRequest, match="not a memory"):
        context.driver.apply(context.stream, memory=object())


def test_free_memory_is_what_contexts_and_other_programs_leave(context):
    other = VirtualContext(beside=context)
    driver = context.driver
    made = []
    for each, nbytes in ((context, 20 * MB), (other, 1)):
        with each.applied():
            made.append(torch.empty(nbytes, dtype=torch.int8))
    assert driver.free_memory(0) == 8 * GB - 22 * MB
    assert driver.free_memory(1) == 8 * GB
    driver.script.occupy(0, "3GiB")
    assert driver.free_memory(0) == 5 * GB - 22 * MB
    driver.script.occupy(0, "8GiB")
    assert driver.free_memory(0) == 0
    driver.script.occupy(0, 0)
    other.memory.close()
    del other, each
    assert driver.free_memory(0) == 8 * GB - 22 * MB, "its tensors live on"
    made.clear()
    assert driver.free_memory(0) == 8 * GB
