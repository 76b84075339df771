"""Randomness by name: every draw comes from a hash of what it is for, never from global state or `seed + i`."""

import hashlib
import random


def digest(*parts: object) -> str:
    """Hex SHA-256 of the parts, unambiguous at their borders; the same on every machine and Python hash seed."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def derived(seed: int, purpose: str, item: object = "") -> int:
    """A seed of its own for one purpose (and one item)."""
    return int(digest(seed, purpose, item)[:15], 16)


def rng(seed: int, purpose: str, item_id: str = "") -> random.Random:
    """A private generator for one purpose (and one item): seeds 42 and 43 share nothing."""
    return random.Random(digest(seed, purpose, item_id))
