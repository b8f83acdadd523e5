"""What a pool's `Residency` wants done, in this order."""

from __future__ import annotations

from dataclasses import dataclass

from .pool_block import PoolBlock, Want

__all__ = ["CopyOut", "ForgetHostCopy", "Grant", "Load", "PoolAction", "Refuse", "Release"]


@dataclass(slots=True)
class Grant:
    """The block is on the device, and stays there until the request is left, if it is a use."""

    want: Want


@dataclass(slots=True)
class Refuse:
    """The request is over."""

    want: Want
    error: Exception


@dataclass(slots=True)
class Load:
    """Give the block its memory, then report `loaded` or `load_failed`."""

    block: PoolBlock
    buffer: int
    new: bool
    """The buffer must be got from the device; else it is there."""
    reload: bool
    """Its bytes must be copied in from the host."""


@dataclass(slots=True)
class CopyOut:
    """Copy the block's bytes to the host, then report `copied_out` or `copy_out_failed`.

    The device memory stays as it is. Work that uses the block must be waited for before.
    """

    block: PoolBlock
    buffer: int


@dataclass(slots=True)
class ForgetHostCopy:
    """The block's bytes on the host are not needed any more."""

    block: PoolBlock


@dataclass(slots=True)
class Release:
    """Give a buffer back to the device."""

    buffer: int


PoolAction = Grant | Refuse | Load | CopyOut | ForgetHostCopy | Release
