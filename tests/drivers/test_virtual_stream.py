"""Virtual streams: their threads, their memory, and random programs of work and waits."""

from __future__ import annotations

import threading
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgpu.drivers.virtual import driver as driver_module
from asyncgpu.drivers.virtual import stream as stream_module
from asyncgpu.drivers.virtual.driver import VirtualDriver
from asyncgpu.drivers.virtual.stream import Work
from asyncgpu.errors import DeviceLost, InvalidRequest

from .held import held

LIMIT = 10.0


@pytest.fixture
def driver():
    driver = VirtualDriver.from_spec("2x8GiB")
    yield driver
    driver.close()


@pytest.fixture
def stream(driver):
    return driver.create_stream(0, level=1)


def stream_threads():
    return [t for t in threading.enumerate() if t.name.startswith("asyncgpu cuda:")]


def test_a_stream_without_work_has_no_thread(driver, stream):
    other = driver.create_stream(1, level=1)
    event = stream.record()
    other.wait_event(event)
    assert event.done()
    assert other.record().done()
    assert stream_threads() == []


def test_a_stream_with_work_has_one_thread_named_after_it(stream):
    latch = held(stream)
    stream.enqueue(lambda: None)
    assert [t.name for t in stream_threads()] == ["asyncgpu cuda:0 stream 1"]
    latch.set()


def test_an_idle_stream_loses_its_thread_and_gets_another(monkeypatch, stream):
    monkeypatch.setattr(stream_module, "_LINGER_SECONDS", 0.001)
    for _ in range(3):
        served = []
        stream.enqueue(lambda served=served: served.append(threading.current_thread()))
        stream.record().synchronize()
        served[0].join(LIMIT)
        assert not served[0].is_alive()
    assert stream_threads() == []


def test_work_that_comes_while_the_thread_gives_up_is_served(monkeypatch, stream):
    served = threading.Event()
    late = [Work(served.set, None)]

    def time_out(timeout) -> bool:
        """Work came in, and its notice too late."""
        stream._queue.extend(late)
        late.clear()
        return False

    monkeypatch.setattr(stream._changed, "wait", time_out)
    stream.enqueue(lambda: None)
    assert served.wait(LIMIT)


def test_bursts_of_work_keep_their_order_whoever_serves_them(monkeypatch, stream):
    monkeypatch.setattr(stream_module, "_LINGER_SECONDS", 0.0)
    done = []
    for number in range(500):
        stream.enqueue(lambda number=number: done.append(number))
    stream.record().synchronize()
    assert done == list(range(500))


def test_closing_a_stream_ends_its_thread_after_its_work(stream):
    latch = held(stream)
    (thread,) = stream_threads()
    stream.close()
    assert not stream.gone
    latch.set()
    thread.join(LIMIT)
    assert stream.gone


def test_an_idle_stream_does_not_keep_its_last_work_alive(monkeypatch, stream):
    monkeypatch.setattr(stream_module, "_LINGER_SECONDS", 10 * LIMIT)

    class Tensor:
        pass

    tensor, freed = Tensor(), threading.Event()
    weakref.finalize(tensor, freed.set)
    stream.enqueue(lambda tensor=tensor: None)
    del tensor
    assert freed.wait(LIMIT)


def test_closing_the_driver_interrupts_what_runs_and_drops_what_waits(driver, stream):
    latch = held(stream)
    ran = []
    stream.enqueue(lambda: ran.append(1))
    event = stream.record()
    driver.close()
    assert latch.is_set()
    assert ran == []
    with pytest.raises(DeviceLost, match="closed before this was reached"):
        event.synchronize()
    assert stream_threads() == []


def test_closing_the_driver_ends_a_wait_for_another_stream(driver, stream):
    consumer = driver.create_stream(1, level=1)
    held(stream)
    consumer.wait_event(stream.record())
    consumed = consumer.record()
    driver.close()
    with pytest.raises(DeviceLost):
        consumed.done()
    assert stream_threads() == []


def test_an_event_reached_before_the_driver_closed_stays_reached(driver, stream):
    event = stream.record()
    driver.close()
    assert event.done()


def test_work_that_cannot_be_interrupted_is_named_when_the_driver_closes(monkeypatch, driver):
    monkeypatch.setattr(driver_module, "_CLOSE_SECONDS", 0.01)
    stream = driver.create_stream(1, level=1)
    latch = held(stream, interruptible=False)
    (thread,) = stream_threads()
    with pytest.warns(RuntimeWarning, match="VirtualStream 1 of cuda:1"):
        driver.close()
    latch.set()
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_a_closed_stream_takes_no_work(stream):
    stream.close()
    with pytest.raises(InvalidRequest, match="closed"):
        stream.enqueue(lambda: None)


def test_only_virtual_events_can_be_waited_for(stream):
    with pytest.raises(InvalidRequest, match="not an event"):
        stream.wait_event(object())
    with pytest.raises(InvalidRequest, match="not an event"):
        stream.record().elapsed_since(object())


@st.composite
def programs(draw):
    """Steps ("work" | "wait", stream, which earlier step it waits for)."""
    steps = []
    for number in range(draw(st.integers(1, 30))):
        on = draw(st.integers(0, 3))
        works = [n for n, (kind, *_rest) in enumerate(steps) if kind == "work"]
        if works and draw(st.booleans()):
            steps.append(("wait", on, draw(st.sampled_from(works))))
        else:
            steps.append(("work", on, number))
    return steps


@settings(max_examples=60, deadline=None)
@given(programs())
def test_random_programs_run_in_the_order_of_streams_and_events(program):
    driver = VirtualDriver.from_spec("2x1GiB")
    streams = [driver.create_stream(index % 2, level=1) for index in range(4)]
    order, events = [], {}
    before = [set() for _ in streams]  # the work that each stream's next work must come after
    must_precede = {}
    for number, (kind, on, target) in enumerate(program):
        if kind == "wait":
            streams[on].wait_event(events[target])
            before[on] |= {target} | must_precede[target]
        else:
            must_precede[number] = set(before[on])
            streams[on].enqueue(lambda number=number: order.append(number))
            events[number] = streams[on].record()
            before[on].add(number)
    for event in events.values():
        event.synchronize()
    assert sorted(order) == sorted(events)
    for number, earlier in must_precede.items():
        assert all(order.index(other) < order.index(number) for other in earlier)
    driver.close()
    assert stream_threads() == []
