"""Queues and lines of waiters."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.policy.device_inputs import ClaimKind, Shape
from asyncgpu.policy.device_spec import parse_device
from asyncgpu.policy.waiting import WaitingRoom, WaitQueue


@dataclass(eq=False)
class Waiter:
    order: tuple[float, int]
    queue: object = None


def shape(device, **wants):
    return Shape(ClaimKind.LEASE, parse_device(device), **wants)


@given(st.lists(st.tuples(st.sampled_from(["push", "discard", "first"]), st.integers(0, 9))))
def test_a_queue_is_a_sorted_list(moves):
    queue, model = WaitQueue(), []
    for number, (move, key) in enumerate(moves):
        if move == "push":
            model.append(Waiter((float(key), number)))
            queue.push(model[-1])
            model.sort(key=lambda waiter: waiter.order)
        elif model:
            queue.discard(model.pop(key % len(model) if move == "discard" else 0))
        assert queue.head is (model[0] if model else None)
        assert len(queue) == len(model)
        assert list(queue) == model
        assert all(waiter.queue is queue for waiter in model)


def test_who_leaves_and_comes_back_stands_once():
    queue = WaitQueue()
    first, second = Waiter((0.0, 0)), Waiter((1.0, 1))
    queue.push(first)
    queue.push(second)
    queue.discard(second)
    queue.push(second)
    assert list(queue) == [first, second]
    queue.discard(first)
    assert queue.head is second
    queue.discard(second)
    assert queue.head is None


def test_waiters_that_give_up_behind_a_stuck_head_do_not_pile_up():
    queue = WaitQueue()
    head = Waiter((0.0, 0))
    queue.push(head)
    for number in range(1, 10_000):
        waiter = Waiter((1.0, number))
        queue.push(waiter)
        queue.discard(waiter)
    assert len(queue._heap) < 50
    assert queue.head is head


def test_lines_are_found_by_shape_and_by_device():
    room = WaitingRoom()
    any_one = room.line(shape("cuda"))
    among = room.line(shape("cuda", among=frozenset({1})))
    pair = room.line(shape("cuda:0,1"))
    assert room.line(shape("cuda")) is any_one
    assert room.find(shape("cuda:0,1")) is pair
    assert room.find(shape("cudax2")) is None
    assert list(room.interested(0)) == [any_one, pair]
    assert list(room.interested(1)) == [any_one, among, pair]
    assert list(room.interested(2)) == [any_one]


def test_a_closed_line_is_forgotten():
    room = WaitingRoom()
    lines = [room.line(shape(device)) for device in ("cuda", "cuda:0", "cuda:0,1")]
    for line in lines:
        room.close(line)
    assert list(room.lines()) == []
    assert list(room.interested(0)) == []
    assert room.find(shape("cuda:0")) is None


def test_the_room_lists_everybody_in_one_order():
    room = WaitingRoom()
    waiters = [Waiter((float(key), number)) for number, key in enumerate([3, 1, 2, 0])]
    room.line(shape("cuda")).waiting.push(waiters[0])
    room.line(shape("cuda")).promised.push(waiters[1])
    room.line(shape("cuda:0")).waiting.push(waiters[2])
    room.line(shape("cudax2")).waiting.push(waiters[3])
    assert list(room.in_order()) == [waiters[3], waiters[1], waiters[2], waiters[0]]
