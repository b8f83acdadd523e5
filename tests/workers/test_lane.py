"""A lane writes what fits, keeps what does not, and delivers whatever arrives."""

from __future__ import annotations

import socket
from contextvars import ContextVar

import anyio
import pytest

from asyncgpu.workers.lane import Lane
from asyncgpu.workers.reactor import running_reactor
from asyncgpu.workers.wire import FrameDecoder, Kind, WireError, encode

pytestmark = pytest.mark.anyio

here = ContextVar("here", default="nowhere")


class Peer:
    """A lane of ours, and a bare socket as its other side."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair()
        self.socket.setblocking(False)
        self.frames, self.ends, self.places = [], [], []
        self.news = anyio.Event()
        self.lane = Lane(running_reactor(), ours, self.on_frame, self.on_end)

    def on_frame(self, frame):
        self.frames.append(frame)
        self.places.append(here.get())
        self.news.set()
        if frame.request == 13:
            raise RuntimeError("a callback's own bug")

    def on_end(self, problem):
        self.ends.append(problem)
        self.news.set()

    async def until(self, condition):
        with anyio.fail_after(10):
            while not condition():
                await self.news.wait()
                self.news = anyio.Event()

    async def read_frames(self, count):
        decoder, frames = FrameDecoder(), []
        with anyio.fail_after(10):
            while len(frames) < count:
                await anyio.wait_readable(self.socket)
                frames += decoder.feed(self.socket.recv(1 << 20))
        return frames

    def close(self):
        self.lane.close()
        self.socket.close()


@pytest.fixture
async def peer(anyio_backend):
    peer = Peer()
    yield peer
    peer.close()


async def test_frames_arrive(peer):
    peer.socket.send(encode(Kind.RUN, 1, b"a") + encode(Kind.RUN, 2, b"b"))
    await peer.until(lambda: len(peer.frames) == 2)
    assert [bytes(frame.body) for frame in peer.frames] == [b"a", b"b"]


async def test_callbacks_run_outside_the_starters_context(anyio_backend):
    here.set("in a session")
    peer = Peer()
    peer.socket.send(encode(Kind.RUN, 1))
    await peer.until(lambda: peer.frames)
    assert peer.places == ["nowhere"]
    peer.close()


async def test_a_write_is_sent_at_once(peer):
    peer.lane.write(encode(Kind.RUN, 1, b"now"))
    (frame,) = FrameDecoder().feed(peer.socket.recv(1000))
    assert bytes(frame.body) == b"now"


async def test_writes_of_one_turn_go_together(peer):
    for index in range(3000):
        peer.lane.write(encode(Kind.RUN, index), soon=True)
    with pytest.raises(BlockingIOError):
        peer.socket.recv(1)
    frames = await peer.read_frames(3000)
    assert [frame.request for frame in frames] == [*range(3000)]


async def test_what_does_not_fit_waits_for_room(peer):
    bodies = [bytes([index]) * 300_000 for index in range(10)]
    for index, body in enumerate(bodies):
        peer.lane.write(encode(Kind.RUN, index, body))
    frames = await peer.read_frames(10)
    assert [bytes(frame.body) for frame in frames] == bodies


async def test_the_end_of_the_stream_is_told_once(peer):
    peer.socket.close()
    await peer.until(lambda: peer.ends)
    peer.lane.write(encode(Kind.RUN, 1))
    assert peer.ends == [None]


async def test_garbage_ends_the_lane_with_a_typed_error(peer):
    peer.socket.send(b"Segmentation fault in some library\n")
    await peer.until(lambda: peer.ends)
    assert isinstance(peer.ends[0], WireError)


async def test_a_failing_callback_does_not_cost_the_frames_behind(peer, caplog):
    peer.socket.send(encode(Kind.RUN, 13) + encode(Kind.RUN, 14))
    await peer.until(lambda: len(peer.frames) == 2)
    assert "a callback's own bug" in caplog.text


async def test_draining_takes_in_what_was_sent_before_the_end(peer):
    peer.socket.send(encode(Kind.RUN, 1))
    peer.socket.close()
    peer.lane.drain()
    assert [frame.request for frame in peer.frames] == [1]
    assert peer.ends == [None]
