"""Random numbers by key: what is drawn depends on (seed, purpose, position), never on history.

That is what makes resuming exact and sample 17 the same in any batch.
"""

import hashlib

import torch


def key(*words: int | str) -> int:
    """A 63-bit number from any words: `key(seed, "train", rank, step)`."""
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: torch.device | str, *words: int | str) -> torch.Generator:
    """A generator on `device`, seeded by `key(*words)`."""
    return torch.Generator(device=device).manual_seed(key(*words))
