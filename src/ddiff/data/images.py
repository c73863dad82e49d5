"""A folder of pictures."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ddiff.data.base import FolderData, PictureSize, sides_of
from ddiff.data.folders import PICTURES
from ddiff.data.source import FolderSource, each
from ddiff.system.archives import size_of
from ddiff.system.errors import ConfigError
from ddiff.system.readers import open_picture

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
FEW_FILES, FEW_BYTES = 20_000, 1e8  # up to so much is decoded before training starts: seconds
MANY_FILES = 200_000  # up to so many, the headers are read before training starts


@dataclass(eq=False, repr=False)
class Images(FolderData):
    """Pictures, resized to cover `size`, whose centre is then cut out."""

    size: PictureSize
    channels: int = 3
    suffixes = PICTURES

    def __post_init__(self) -> None:
        if self.channels not in MODES:
            raise ConfigError(
                f"data: channels is {self.channels}; choose 1 (grey), 3 (RGB) or 4 (RGBA)"
            )
        self.shape = (self.channels, *sides_of(self.size, 2))
        super().__post_init__()

    def mask_source(self, source: FolderSource, files: list[str]) -> FolderSource:
        decode = partial(read_image, shape=(1, *self.shape[1:]))
        return FolderSource(self._mask_files, files, decode, self.keep)

    def bytes_of_a_sample(self) -> int:
        return math.prod(self.shape)

    def sources(self) -> tuple[FolderSource, FolderSource]:
        """Return the training and the validation set.

        Files that cannot be read are named before training starts, as far as that costs seconds.
        All files of a small set are decoded; of a larger one only the headers are read. A file that
        is broken further in is named when training reads it.
        """
        decode = partial(read_image, shape=self.shape)
        train, val = self.decoded_by(decode)
        if len(self.files) <= MANY_FILES:
            sizes = each(look_at, self.files)
            if len(self.files) <= FEW_FILES and sum(sizes) <= FEW_BYTES:
                train.look()
                val.look()
        return train, val


def look_at(path: Path) -> int:
    """Return a file's bytes after reading its header. Raises DdiffError if it is broken."""
    with open_picture(path):
        return size_of(path)


def read_image(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Read a picture as uint8 of `shape` [C, H, W]: the largest part of these proportions, in the
    middle of the picture, is resized."""
    channels, height, width = shape
    with open_picture(path) as file:
        image = to_mode(ImageOps.exif_transpose(file), MODES[channels])
    if image.size != (width, height):
        across = min(image.width, image.height * width / height)
        down = min(image.height, image.width * height / width)
        left, top = (image.width - across) / 2, (image.height - down) / 2
        box = (left, top, left + across, top + down)
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    pixels = torch.from_numpy(np.array(image)).view(height, width, channels)
    return pixels.permute(2, 0, 1).contiguous()


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip, not scale
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}; 8 or 16 bits are read")
    return image.convert(mode)
