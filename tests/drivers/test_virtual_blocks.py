"""The virtual driver's blocks keep the blocks' contract, and always copy."""

from __future__ import annotations

import pytest

from asyncgpu.devices.ledger import LockedLedger
from asyncgpu.units import MB

from .blocks_contract import BlocksContract
from .contract import reach
from .test_virtual_contract import VirtualRig


@pytest.fixture
def rig():
    rig = VirtualRig()
    yield rig
    rig.driver.close()


class TestVirtualBlocks(BlocksContract):
    def test_every_move_is_a_copy(self, stream, blocks):
        tensor = blocks.empty(256)
        host = blocks.to_host(tensor)
        reach(stream.record())
        assert host.data_ptr() != tensor.data_ptr()

    def test_what_is_on_no_stream_is_done(self, blocks):
        assert blocks.fence() is None

    def test_a_block_is_charged_to_the_memory_that_is_applied_and_a_host_copy_to_nobody(
        self, rig, stream, blocks
    ):
        ledger = LockedLedger(100 * MB)
        account = ledger.open()
        memory = rig.driver.open_memory(0, ledger, account)
        token = rig.driver.apply(stream, memory=memory)
        tensor = blocks.empty(20 * MB)
        rig.driver.undo(token)
        assert ledger.used == 20 * MB
        host = blocks.to_host(tensor)
        reach(stream.record())
        assert ledger.used == 20 * MB
        del tensor
        assert ledger.used == 0
        assert host.numel() == 20 * MB
