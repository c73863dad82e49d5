"""Random numbers by key: what is drawn depends on (seed, purpose, position), never on history.

That is what makes resuming exact, and the noise of sample 17 the same in any batch.
"""

import hashlib

import torch

STREAM = 0  # in keys of training, where older versions had the rank: one stream is for all ranks


def key(*words: int | str) -> int:
    """A 63-bit number from any words: `key(seed, "train", STREAM, batch)`."""
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed(device: torch.device, *words: int | str) -> None:
    """Seeds the device's own generator, which dropout draws from, by `key(*words)`.

    torch.manual_seed seeds those of all kinds of devices, which takes it a millisecond.
    """
    modules = {"cuda": torch.cuda, "mps": torch.mps}
    own = modules.get(device.type, torch.default_generator)
    own.manual_seed(key(*words))


def generator(device: torch.device | str, *words: int | str) -> torch.Generator:
    """A generator on `device`, seeded by `key(*words)`."""
    return torch.Generator(device=device).manual_seed(key(*words))
