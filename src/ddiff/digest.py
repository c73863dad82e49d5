"""What identifies a net: its numbers."""

import hashlib

from torch import nn


def digest(net: nn.Module) -> str:
    """A hash of all its numbers and their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.float().contiguous().cpu().numpy())
    return found.hexdigest()


def short_digest(net: nn.Module) -> str:
    """Its first eight digits, for people."""
    return digest(net)[:8]
