"""A folder of pictures."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ddiff.data.base import BatchSize, Data, Fraction, Pixels, Workers, at_least, fraction
from ddiff.data.folders import PICTURES, listing
from ddiff.data.source import FolderSource, each
from ddiff.system.bounds import NotNegative, Seed
from ddiff.system.devices import cpu_count
from ddiff.system.errors import ConfigError
from ddiff.system.readers import open_picture

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
FEW_FILES, FEW_BYTES = 20_000, 1e8  # decoded before training starts: seconds
MANY_FILES = 200_000  # up to so many, the headers are read before training starts


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
        self.listing = listing(Path(root), PICTURES, labels)
        self.class_names = self.listing.class_names
        self.num_classes = len(self.class_names) if self.class_names else None
        self.val_fraction = val_fraction
        fits = len(self.listing.files) * channels * size**2 <= cache_gb * 1e9
        self.keep = fits and not num_workers

    def default_workers(self) -> int:
        return 0 if self.keep else min(cpu_count(), 8)

    def sources(self) -> tuple[FolderSource, FolderSource]:
        decode = partial(read_image, size=self.shape[-1], channels=self.shape[0])
        train, val = (
            FolderSource(self.listing, files, decode, self.keep)
            for files in self.listing.split(self.val_fraction)
        )
        self._look(train, val)
        return train, val

    def _look(self, *sources: FolderSource) -> None:
        """Names a file that cannot be read before training starts, as far as that costs seconds.

        All files of a small set are decoded, of a larger one the headers are read; what is broken
        further in is named when training meets it.
        """
        files = [file for source in sources for file in source.files]
        if len(files) <= MANY_FILES:
            sizes = each(look_at, files)
            if len(files) <= FEW_FILES and sum(sizes) <= FEW_BYTES:
                for source in sources:
                    source.look()


def look_at(path: Path) -> int:
    """The bytes of a picture whose header can be read."""
    with open_picture(path):
        return path.stat().st_size


def read_image(path: Path, size: int, channels: int) -> Tensor:
    """[channels, size, size] uint8."""
    with open_picture(path) as file:
        image = to_mode(ImageOps.exif_transpose(file), MODES[channels])
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
