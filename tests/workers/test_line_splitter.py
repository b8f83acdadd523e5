"""Whatever a tool prints becomes bounded lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.workers.output import LineSplitter


def test_lines_are_cut_wherever_the_chunks_end():
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == ["one"]
    assert splitter.feed(b"o\n\n  three") == ["two"]
    assert splitter.flush() == ["  three"]
    assert splitter.flush() == []


def test_of_a_progress_bar_the_last_state_counts():
    splitter = LineSplitter()
    assert splitter.feed(b"\r 10%\r 50%\r100%\r\n") == ["100%"]
    for percent in range(10_000):
        assert splitter.feed(b"\r%d%% done" % percent) == []
    assert splitter.flush() == ["9999% done"]


def test_noise_without_newlines_is_cut_into_bounded_lines():
    splitter = LineSplitter()
    lines = [line for _ in range(100) for line in splitter.feed(b"x" * 1000)] + splitter.flush()
    assert "".join(lines) == "x" * 100_000
    assert max(map(len, lines)) <= 8192


def test_bytes_that_are_no_text_are_shown_all_the_same():
    assert LineSplitter().feed(b"\xff\xfe caf\xc3\xa9\n") == [
        "\N{REPLACEMENT CHARACTER}" * 2 + " café"
    ]


@given(st.lists(st.binary(max_size=100), max_size=50))
def test_nothing_it_is_fed_makes_it_fail_or_keep_much(chunks):
    splitter = LineSplitter()
    for chunk in chunks:
        splitter.feed(chunk)
    splitter.flush()
