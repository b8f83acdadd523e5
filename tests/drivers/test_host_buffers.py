"""Host memory for copies is got once and used again."""

from __future__ import annotations

import pytest

from asyncgpu.drivers.host_buffers import HostBuffers


class Host:
    """Stands for page-locked memory."""

    def __init__(self):
        self.made = []
        self.discarded = []

    def new(self, nbytes):
        self.made.append(bytearray(nbytes))
        return self.made[-1]

    def buffers(self, spare):
        return HostBuffers(self.new, self.discarded.append, spare=spare)


@pytest.fixture
def host():
    return Host()


def test_a_buffer_is_lent_again_for_exactly_its_size(host):
    buffers = host.buffers(spare=1000)
    first = buffers.lend(100)
    buffers.take_back(first)
    assert len(buffers.lend(99)) == 99
    assert buffers.lend(100) is first
    assert [len(made) for made in host.made] == [100, 99]


def test_what_is_lent_is_nobody_else_s(host):
    buffers = host.buffers(spare=1000)
    assert buffers.lend(100) is not buffers.lend(100)


def test_the_oldest_spare_buffers_go_first(host):
    buffers = host.buffers(spare=250)
    lent = [buffers.lend(100) for _ in range(4)]
    for buffer in lent:
        buffers.take_back(buffer)
    assert [id(buffer) for buffer in host.discarded] == [id(buffer) for buffer in lent[:2]]
    assert buffers.lend(100) is lent[3]


def test_trimming_keeps_what_is_lent_and_closing_nothing(host):
    buffers = host.buffers(spare=1000)
    lent, spare = buffers.lend(100), buffers.lend(200)
    buffers.take_back(spare)
    buffers.trim()
    assert [len(buffer) for buffer in host.discarded] == [200]
    buffers.close()
    buffers.close()
    assert [len(buffer) for buffer in host.discarded] == [200, 100]
    assert lent is host.made[0]
