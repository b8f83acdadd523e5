"""What every driver must do, said once: run on virtual devices, and on CUDA where there is one.

A `Rig` is a driver under test and the few things the port cannot do: put work on a stream, hold a
stream, break a device. Nothing here sleeps: streams are held by a latch, and every wait that a bug
could make endless has a limit.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import pytest
import torch

from asyncgpu.errors import DeviceLost, InvalidDevice, InvalidRequest
from asyncgpu.ports import Driver, DriverEvent, DriverStream, Leaf

LIMIT = 20.0


class Rig(Protocol):
    driver: Driver

    def append(self, stream: DriverStream, digit: int) -> None:
        """Put work on `stream`: write `digit` behind the digits of one number in its memory."""

    def read(self) -> int:
        """The number, once all work that is appended has been waited for."""

    def hold(self, stream: DriverStream) -> Callable[[], None]:
        """Later work of `stream` waits, on the device, until the returned function is called."""

    def seen_by_worker(self, environment: Mapping[str, str]) -> Sequence[int]:
        """Total memory of each device that a worker with this environment sees, in its order."""

    def break_device(self, device: int) -> None:
        """Give `device` work that fails."""


def within_limit(wait: Callable[[], object]) -> BaseException | None:
    """Run a blocking `wait` in a thread, with a limit; return what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            wait()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive(), "the wait did not end"
    return raised[0] if raised else None


def reach(event: DriverEvent) -> None:
    assert within_limit(event.synchronize) is None
    assert event.done()


class DriverContract:
    """Subclassed with a fixture `rig`, which opens a driver and closes it."""

    # ---------------------------------------------------------------------------- inventory

    def test_the_inventory_is_in_logical_order_and_stays(self, rig):
        devices = rig.driver.inventory()
        assert [device.index for device in devices] == list(range(len(devices)))
        assert len({device.uuid for device in devices}) == len(devices) > 0
        assert all(device.total_memory > 0 and device.name for device in devices)
        assert list(rig.driver.inventory()) == list(devices)

    def test_free_memory_is_part_of_the_total(self, rig):
        for device in rig.driver.inventory():
            assert 0 <= rig.driver.free_memory(device.index) <= device.total_memory

    def test_torch_accepts_the_device(self, rig):
        assert torch.empty(1, device=rig.driver.torch_device(0)).numel() == 1

    @pytest.mark.parametrize("device", [-1, 4096])
    def test_a_device_that_does_not_exist_is_named_in_the_error(self, rig, device):
        for use in (
            rig.driver.free_memory,
            rig.driver.torch_device,
            lambda index: rig.driver.create_stream(index, level=0),
            lambda index: rig.driver.open_share(index, 0.5),
            lambda index: rig.driver.worker_environment([index]),
        ):
            with pytest.raises(InvalidDevice, match=f"cuda:{device}"):
                use(device)

    def test_a_worker_sees_exactly_the_devices_it_is_given_in_that_order(self, rig):
        devices = rig.driver.inventory()
        indices = [device.index for device in devices]
        for chosen in (indices, indices[::-1], indices[-1:], []):
            seen = rig.seen_by_worker(rig.driver.worker_environment(chosen))
            assert list(seen) == [devices[index].total_memory for index in chosen]

    # ------------------------------------------------------------------------------ streams

    def test_work_runs_in_order(self, rig):
        stream = rig.driver.create_stream(0, level=1)
        for digit in range(1, 10):
            rig.append(stream, digit)
        reach(stream.record())
        assert rig.read() == 123456789

    def test_giving_work_and_recording_return_while_the_stream_is_held(self, rig):
        stream = rig.driver.create_stream(0, level=1)
        before = stream.record()
        release = rig.hold(stream)
        rig.append(stream, 7)
        after = stream.record()
        reach(before)
        assert not after.done()
        release()
        reach(after)
        assert rig.read() == 7

    def test_streams_do_not_wait_for_each_other(self, rig):
        held, free = (rig.driver.create_stream(0, level=1) for _ in range(2))
        release = rig.hold(held)
        blocked = held.record()
        rig.append(free, 5)
        reach(free.record())
        assert rig.read() == 5
        assert not blocked.done()
        release()
        reach(blocked)

    def test_two_hundred_streams_are_all_different(self, rig):
        """torch's own pool has 32, so that the 33rd context would share the first one's."""
        streams = [rig.driver.create_stream(0, level=1) for _ in range(200)]
        assert len({stream.id for stream in streams}) == 200
        assert 0 not in {stream.id for stream in streams}
        release = rig.hold(streams[0])
        blocked = streams[0].record()
        for stream in streams[1:]:
            rig.append(stream, 0)
            reach(stream.record())
        assert not blocked.done()
        release()
        reach(blocked)

    def test_a_more_urgent_level_has_a_lower_priority_number(self, rig):
        priorities = [rig.driver.create_stream(0, level=level).priority for level in (0, 1, 2)]
        assert priorities == sorted(priorities)
        assert priorities[0] < priorities[2]

    @pytest.mark.parametrize("level", [-1, 3])
    def test_there_are_three_levels(self, rig, level):
        with pytest.raises(InvalidRequest, match="level"):
            rig.driver.create_stream(0, level=level)

    def test_a_share_is_a_part_of_the_device_or_a_label(self, rig):
        share = rig.driver.open_share(0, 0.5)
        assert 0 < share.granted <= 0.5
        assert share.enforced is (share.sm_count is not None)
        stream = rig.driver.create_stream(0, level=1, share=share)
        share.close()
        share.close()
        rig.append(stream, 4)
        reach(stream.record())
        assert rig.read() == 4

    def test_a_stream_knows_its_device(self, rig):
        for device in rig.driver.inventory():
            assert rig.driver.create_stream(device.index, level=0).device == device.index

    def test_closing_a_stream_neither_blocks_nor_loses_its_work(self, rig):
        stream = rig.driver.create_stream(0, level=1)
        release = rig.hold(stream)
        rig.append(stream, 3)
        event = stream.record()
        stream.close()
        stream.close()
        assert not event.done()
        release()
        reach(event)
        assert rig.read() == 3

    def test_a_closed_stream_refuses(self, rig):
        stream, other = (rig.driver.create_stream(0, level=1) for _ in range(2))
        stream.close()
        for use in (
            stream.record,
            lambda: stream.wait_event(other.record()),
            lambda: rig.driver.apply(stream),
        ):
            with pytest.raises(InvalidRequest, match="closed"):
                use()
        assert rig.driver.current_stream(0) is None

    def test_a_stream_opened_after_a_close_shares_nothing_with_work_still_pending(self, rig):
        closed = rig.driver.create_stream(0, level=1)
        release = rig.hold(closed)
        blocked = closed.record()
        closed.close()
        reach(rig.driver.create_stream(0, level=1).record())
        assert not blocked.done()
        release()
        reach(blocked)

    # ------------------------------------------------------------------------------- events

    def test_waiting_for_an_event_holds_the_stream_and_not_the_caller(self, rig):
        producer, consumer = (rig.driver.create_stream(0, level=1) for _ in range(2))
        release = rig.hold(producer)
        rig.append(producer, 1)
        consumer.wait_event(producer.record())
        rig.append(consumer, 2)
        consumed = consumer.record()
        assert not consumed.done()
        release()
        reach(consumed)
        assert rig.read() == 12

    def test_waiting_for_an_event_that_is_done_changes_nothing(self, rig):
        producer, consumer = (rig.driver.create_stream(0, level=1) for _ in range(2))
        event = producer.record()
        reach(event)
        consumer.wait_event(event)
        reach(consumer.record())

    def test_a_stream_may_wait_for_its_own_event(self, rig):
        stream = rig.driver.create_stream(0, level=1)
        release = rig.hold(stream)
        stream.wait_event(stream.record())
        event = stream.record()
        release()
        reach(event)

    def test_events_link_devices(self, rig):
        if len(rig.driver.inventory()) < 2:
            pytest.skip("needs two devices")
        producer = rig.driver.create_stream(0, level=1)
        consumer = rig.driver.create_stream(1, level=1)
        release = rig.hold(producer)
        consumer.wait_event(producer.record())
        consumed = consumer.record()
        assert not consumed.done()
        release()
        reach(consumed)

    def test_elapsed_time_is_in_seconds_between_two_reached_events(self, rig):
        stream = rig.driver.create_stream(0, level=1)
        earlier = stream.record()
        release = rig.hold(stream)
        later = stream.record()
        with pytest.raises(InvalidRequest, match="reached"):
            later.elapsed_since(earlier)
        release()
        reach(later)
        assert 0 < later.elapsed_since(earlier) < LIMIT

    # ----------------------------------------------------------------------- current stream

    def test_the_default_stream_is_current_until_another_is_applied(self, rig):
        assert rig.driver.current_stream(0) is None
        stream = rig.driver.create_stream(0, level=1)
        token = rig.driver.apply(stream)
        assert rig.driver.current_stream(0) is stream
        rig.driver.undo(token)
        assert rig.driver.current_stream(0) is None

    def test_applied_streams_nest(self, rig):
        outer, inner = (rig.driver.create_stream(0, level=1) for _ in range(2))
        tokens = []
        for stream in (outer, inner, outer):
            tokens.append(rig.driver.apply(stream))
            assert rig.driver.current_stream(0) is stream
        for expected in (inner, outer, None):
            rig.driver.undo(tokens.pop())
            assert rig.driver.current_stream(0) is expected

    def test_each_thread_has_its_own_current_stream(self, rig):
        mine, theirs = (rig.driver.create_stream(0, level=1) for _ in range(2))
        token = rig.driver.apply(mine)
        seen = []

        def other() -> None:
            seen.append(rig.driver.current_stream(0))
            token = rig.driver.apply(theirs)
            seen.append(rig.driver.current_stream(0))
            rig.driver.undo(token)

        assert within_limit(other) is None
        assert seen == [None, theirs]
        assert rig.driver.current_stream(0) is mine
        rig.driver.undo(token)

    def test_each_device_has_its_own_current_stream(self, rig):
        if len(rig.driver.inventory()) < 2:
            pytest.skip("needs two devices")
        first = rig.driver.create_stream(0, level=1)
        second = rig.driver.create_stream(1, level=1)
        outer = rig.driver.apply(first)
        inner = rig.driver.apply(second)
        assert rig.driver.current_stream(0) is first
        assert rig.driver.current_stream(1) is second
        rig.driver.undo(inner)
        assert rig.driver.current_stream(0) is first
        assert rig.driver.current_stream(1) is None
        rig.driver.undo(outer)
        assert rig.driver.current_stream(0) is None

    def test_inference_mode_comes_and_goes_with_the_stream(self, rig):
        stream = rig.driver.create_stream(0, level=1)
        outer = rig.driver.apply(stream, inference=True)
        assert torch.is_inference_mode_enabled()
        inner = rig.driver.apply(stream)
        assert torch.is_inference_mode_enabled()
        rig.driver.undo(inner)
        assert torch.is_inference_mode_enabled()
        rig.driver.undo(outer)
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()

    # -------------------------------------------------------------------------------- close

    def test_closing_the_driver_leaves_no_thread_and_opens_nothing_more(self, rig):
        before = set(threading.enumerate())
        stream = rig.driver.create_stream(0, level=1)
        rig.append(stream, 1)
        reach(stream.record())
        rig.driver.close()
        rig.driver.close()
        assert set(threading.enumerate()) <= before
        with pytest.raises(InvalidRequest, match="closed"):
            rig.driver.create_stream(0, level=1)

    # ------------------------------------------------------------------------------ aliases

    def test_an_alias_is_the_same_memory_until_the_last_view_is_gone(self, rig):
        tensor = torch.arange(8.0, device=rig.driver.torch_device(0))
        storage, owners = weakref.ref(tensor.untyped_storage()), []
        leaves = [Leaf("a", tensor), Leaf("b", "text"), Leaf("c", tensor[2:])]
        alias, text, part = rig.driver.alias(leaves, 0, owners.append)
        assert (alias.data_ptr(), text) == (tensor.data_ptr(), "text")
        assert part.data_ptr() == tensor[2:].data_ptr()
        assert torch.equal(alias.cpu(), torch.arange(8.0))
        view = part.view(2, 3)[1]
        del tensor, leaves, alias, part
        assert storage() is not None
        assert owners == []
        del view
        assert [owner.data_ptr() for owner in owners] == [storage().data_ptr()]
        owners.clear()
        assert storage() is None

    @pytest.mark.parametrize("bad", ["elsewhere", "grad", "sparse"])
    def test_what_cannot_be_aliased_is_named_by_its_place(self, rig, bad):
        tensor = {
            "elsewhere": lambda device: torch.ones(2, device="meta"),
            "grad": lambda device: torch.ones(2, device=device, requires_grad=True),
            "sparse": lambda device: torch.ones(2, 2, device=device).to_sparse(),
        }[bad](rig.driver.torch_device(0))
        with pytest.raises(InvalidRequest, match=r"tree\['x'\]"):
            rig.driver.alias([Leaf("tree['x']", tensor)], 0, lambda owner: None)


class FaultContract:
    """What every driver must do after a device fault; the device cannot be used again."""

    def test_a_fault_reaches_every_wait_and_every_use(self, rig):
        stream, other = (rig.driver.create_stream(0, level=1) for _ in range(2))
        reached = stream.record()
        reach(reached)
        release = rig.hold(other)
        pending = other.record()
        raised: list[BaseException | None] = []
        waiting = threading.Thread(
            target=lambda: raised.append(within_limit(pending.synchronize)), daemon=True
        )
        waiting.start()
        rig.break_device(0)
        waiting.join(2 * LIMIT)
        assert isinstance(raised[0], DeviceLost)
        for use in (
            pending.done,
            pending.synchronize,
            reached.done,
            reached.synchronize,
            stream.record,
            lambda: stream.wait_event(reached),
            lambda: rig.driver.create_stream(0, level=1),
        ):
            with pytest.raises(DeviceLost, match="cuda:0"):
                use()
        release()
        stream.close()
        assert rig.driver.free_memory(0) >= 0
