"""Frames survive any chunking, and what is no frame is refused at once."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.workers.wire import (
    Block,
    Frame,
    FrameDecoder,
    Kind,
    WireError,
    encode,
    encode_bulk,
)

offsets = st.integers(0, 2**40)
blocks = st.builds(Block, offsets, st.integers(0, 2**30))
inline = st.binary(max_size=50).map(lambda data: memoryview(bytearray(data)))
messages = st.builds(
    lambda kind, request, body, attachments: (kind, request, body, attachments),
    st.integers(Kind.HELLO, Kind.RELEASE),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=200) | blocks,
    st.lists(blocks | inline, max_size=4),
)


def content(memory):
    return memory if isinstance(memory, Block) else bytes(memory)


def plain(frame: Frame) -> tuple[object, ...]:
    return frame.kind, frame.request, content(frame.body), [*map(content, frame.attachments)]


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


@given(st.lists(messages, max_size=5), st.lists(st.integers(0, 10_000), max_size=20))
def test_frames_survive_any_chunking(sent, cuts):
    data = b"".join(b"".join(encode_bulk(*message)) for message in sent)
    decoder = FrameDecoder()
    received = [plain(frame) for chunk in chunked(data, cuts) for frame in decoder.feed(chunk)]
    assert received == [
        (kind, request, content(body), [*map(content, attachments)])
        for kind, request, body, attachments in sent
    ]


def test_a_frame_without_attachments_has_one_form():
    assert encode(Kind.RUN, 9, b"body") == b"".join(encode_bulk(Kind.RUN, 9, b"body", []))


def test_one_byte_at_a_time():
    data = b"".join(encode_bulk(Kind.RUN, 7, b"body", [Block(4096, 10), memoryview(b"inline")]))
    decoder = FrameDecoder()
    frames = [
        frame for index in range(len(data)) for frame in decoder.feed(data[index : index + 1])
    ]
    assert [plain(frame) for frame in frames] == [
        (Kind.RUN, 7, b"body", [Block(4096, 10), b"inline"])
    ]


def test_inline_attachments_are_writable_memory_of_their_own():
    data = b"".join(encode_bulk(Kind.RUN, 1, b"", [memoryview(b"abc")]))
    (frame,) = FrameDecoder().feed(data)
    frame.attachments[0][0] = 0
    assert data.endswith(b"abc")


@given(st.binary(min_size=24, max_size=100).filter(lambda data: data[0] != 0xA6))
def test_garbage_is_refused(garbage):
    with pytest.raises(WireError, match="not a frame"):
        list(FrameDecoder().feed(garbage))


@given(st.binary(min_size=23, max_size=100))
def test_whatever_follows_the_magic_ends_in_frames_or_a_typed_error(garbage):
    with suppress(WireError):
        list(FrameDecoder().feed(b"\xa6" + garbage))


def test_frames_before_the_garbage_are_delivered():
    frames = FrameDecoder().feed(encode(Kind.PING, 1) + b"noise" * 10)
    assert next(frames).request == 1
    with pytest.raises(WireError):
        next(frames)


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param((1, b"\xff"), id="unknown kind"),
        pytest.param((4, b"\xff\xff\xff\xff"), id="more attachments than bytes"),
        pytest.param((16, b"\xff" * 8), id="longer than any memory"),
    ],
)
def test_a_damaged_header_is_refused(patch):
    position, damage = patch
    data = bytearray(encode(Kind.RUN, 1, b"body"))
    data[position : position + len(damage)] = damage
    with pytest.raises(WireError):
        list(FrameDecoder().feed(data))


def test_inline_attachments_longer_than_their_frame_are_refused():
    data = bytearray(b"".join(encode_bulk(Kind.RUN, 1, b"", [memoryview(b"abc")])))
    data[32:40] = (2**20).to_bytes(8, "little")
    with pytest.raises(WireError, match="do not fit"):
        list(FrameDecoder().feed(data))
