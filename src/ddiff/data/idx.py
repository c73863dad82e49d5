"""The MNIST file format: a magic number, the counts, then bytes. Plain or gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from ddiff.system.errors import DdiffError


def read_idx(path: Path, dims: int) -> Tensor:
    """The uint8 tensor of `dims` axes in an IDX file: 00 00 08 <dims>, big-endian sizes, data."""
    raw = _content(path)
    head = 4 + 4 * dims
    if raw[:4] != bytes((0, 0, 8, dims)):
        raise DdiffError(
            f"{path} is not an IDX file of bytes in {dims} dimensions: "
            f"it starts with {raw[:4].hex() or 'nothing'}, not 000008{dims:02x}"
        )
    sizes = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, head, 4)]
    if len(raw) != head + math.prod(sizes):
        raise DdiffError(
            f"{path} is truncated or damaged: {len(raw)} bytes, "
            f"its header announces {head + math.prod(sizes)}"
        )
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=head).view(sizes)


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DdiffError(f"{path} is truncated or damaged: {error}") from error
    except OSError as error:
        raise DdiffError(f"cannot read {path}: {error.strerror or error}") from error
