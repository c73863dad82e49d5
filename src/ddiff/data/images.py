"""A folder of pictures."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ddiff.bounds import NotNegative, Seed
from ddiff.data.base import BatchSize, Data, Fraction, Pixels, Workers, at_least, fraction
from ddiff.data.folders import FolderSource, listing
from ddiff.devices import cpu_count
from ddiff.errors import ConfigError, DdiffError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Images(Data):
    """Pictures below `root`, the shorter side resized to `size`, then the centre cut out.

    Folders directly below root are the classes (`labels`: null finds out). The decoded set is
    kept in memory where it takes at most `cache_gb` and no worker processes are asked for.
    """

    def __init__(
        self,
        batch_size: BatchSize,
        seed: Seed,
        root: str,
        size: Pixels,
        channels: int = 3,
        labels: bool | None = None,
        val_fraction: Fraction = 0.05,
        cache_gb: NotNegative = 2.0,
        num_workers: Workers = None,
        flip: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, num_workers, flip)
        at_least(1, size=size)
        at_least(0, cache_gb=cache_gb)
        fraction(val_fraction=val_fraction)
        if channels not in MODES:
            raise ConfigError(f"data: channels is {channels}; choose 1 (grey), 3 (RGB) or 4 (RGBA)")
        self.shape = (channels, size, size)
        self.listing = listing(Path(root), SUFFIXES, labels)
        self.class_names = self.listing.class_names
        self.num_classes = len(self.class_names) if self.class_names else None
        self.val_fraction = val_fraction
        fits = len(self.listing.files) * channels * size**2 <= cache_gb * 1e9
        self.keep = fits and not num_workers

    def default_workers(self) -> int:
        return 0 if self.keep else min(cpu_count(), 8)

    def sources(self) -> tuple[FolderSource, FolderSource]:
        decode = partial(read_image, size=self.shape[-1], channels=self.shape[0])
        train, val = self.listing.split(self.val_fraction)
        return (
            FolderSource(self.listing, train, decode, self.keep),
            FolderSource(self.listing, val, decode, self.keep),
        )


def read_image(path: Path, size: int, channels: int) -> Tensor:
    """[channels, size, size] uint8."""
    try:
        with Image.open(path) as file:
            image = to_mode(ImageOps.exif_transpose(file), MODES[channels])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        what = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise DdiffError(f"cannot read the image {path}: {what}") from error
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    if image.size != (size, size):
        box = (left, top, left + short, top + short)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    pixels = torch.from_numpy(np.array(image)).view(size, size, channels)
    return pixels.permute(2, 0, 1).contiguous()


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip, not scale
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}; 8 or 16 bits are read")
    return image.convert(mode)
