"""What the blocks of every driver must do, said once, like `contract`."""

from __future__ import annotations

import pytest
import torch

from asyncgpu.errors import InvalidRequest

from .contract import reach, within_limit

SIZES = [256, 4096, 3 << 20]


class BlocksContract:
    """Subclassed with a fixture `rig`, which opens a driver and closes it."""

    @pytest.fixture
    def stream(self, rig):
        return rig.driver.create_stream(0, level=1)

    @pytest.fixture
    def blocks(self, rig, stream):
        opened = rig.driver.open_blocks(stream, spare=1 << 30)
        yield opened
        opened.close()
        opened.close()

    @pytest.mark.parametrize("nbytes", SIZES)
    def test_a_block_is_bytes_on_the_device(self, rig, blocks, nbytes):
        tensor = blocks.empty(nbytes)
        assert (tensor.dtype, tensor.shape) == (torch.uint8, (nbytes,))
        assert tensor.device == torch.device(rig.driver.torch_device(0))

    @pytest.mark.parametrize("nbytes", SIZES)
    def test_bytes_go_to_the_host_and_come_back(self, stream, blocks, nbytes):
        tensor = blocks.empty(nbytes)
        written = torch.arange(nbytes).remainder(251).to(torch.uint8)
        tensor.copy_(written)
        blocks.fence() and reach(blocks.fence())
        host = blocks.to_host(tensor)
        reach(stream.record())
        assert torch.equal(host, written)
        tensor.zero_()
        blocks.fence() and reach(blocks.fence())
        blocks.to_device(host, tensor)
        reach(stream.record())
        assert torch.equal(tensor.cpu(), written)
        blocks.forget(host)
        assert blocks.to_host(tensor) is host
        reach(stream.record())

    def test_copies_wait_their_turn_and_nobody_waits_for_them(self, rig, stream, blocks):
        tensor = blocks.empty(4096)
        tensor.fill_(1)
        blocks.fence() and reach(blocks.fence())
        blocks.forget(blocks.to_host(tensor))
        reach(stream.record())
        release = rig.hold(stream)
        returned = []
        assert within_limit(lambda: returned.append(blocks.to_host(tensor))) is None
        event = stream.record()
        assert not event.done()
        release()
        reach(event)
        assert returned[0].tolist() == [1] * 4096

    def test_a_fence_is_behind_the_work_of_the_stream_that_is_current(self, rig, blocks):
        other = rig.driver.create_stream(0, level=1)
        token = rig.driver.apply(other)
        try:
            release = rig.hold(other)
            fence = blocks.fence()
            assert not fence.done()
            release()
            reach(fence)
        finally:
            rig.driver.undo(token)

    def test_a_stream_of_another_driver_is_refused(self, rig):
        with pytest.raises(InvalidRequest, match="is not a stream of"):
            rig.driver.open_blocks(object(), spare=0)
