"""Seeds that follow from what they are for, so that resumed runs and other processes draw the same."""

import hashlib


def seed_of(*parts: object) -> int:
    """A seed of 62 bits that is the same in every process for the same parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 2
