"""Seeds of items: the same for an item whatever the number of GPUs that share the batch."""

from __future__ import annotations

import hashlib

__all__ = ["derive_seed"]


def derive_seed(seed: int, index: int) -> int:
    """Return the seed of item `index`: the first 8 bytes of SHA-256 over ``"seed:index"``.

    The result is below 2**63, which every framework's generator accepts.
    """
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
