"""Writing of a data set to disk, in files that `images` and `voxels` read again."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from ddiff.data.base import Data, at_least
from ddiff.data.source import to_bytes
from ddiff.system.errors import ConfigError, DdiffError, nearest
from ddiff.system.files import replacing, write_json

Split = Literal["train", "val"]


def write(data: Data, out: str | Path, num: int | None = None, split: Split = "train") -> int:
    """Write the first `num` samples of a split (null: all) below `out`; returns how many.

    Volumes become `vox_0000.npy` [D, H, W], or [C, D, H, W] of several channels: uint8 0/1 if
    every voxel is -1 or 1, else float32 in [0, 1]. Images become `00000.png`. Labelled samples go
    in one folder a class, and `dataset.json`, written last, describes the data set. Raises
    ConfigError and DdiffError.
    """
    if split not in get_args(Split):
        raise ConfigError(f"split is {split!r}{nearest(str(split), list(get_args(Split)))}")
    if not isinstance(num, int | None):
        raise ConfigError(f"num is {num!r}, not an integer or null")
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DdiffError(f"{out} is not an empty folder; say another out=, or empty it first")
    if data.original is not data:
        raise ConfigError("data=latent: latents are no files that can be read again; write data.of")
    data.prepare_data()
    data.setup("fit")
    source = getattr(data, split)
    num = len(source) if num is None else num
    at_least(1, num=num)
    if num > len(source):
        raise ConfigError(f"num is {num}, but {split} holds {len(source)} samples")
    volumes = len(data.shape) == 4
    digits = max(4 if volumes else 5, len(str(num - 1)))
    for rows in track(torch.arange(num).split(data.batch_size), f"writing {num} samples"):
        x, y = source.batch(rows)
        for i, row in enumerate(rows.tolist()):
            folder = out if y is None or not data.class_names else out / data.class_names[int(y[i])]
            if volumes:
                save_voxels(folder / f"vox_{row:0{digits}d}.npy", x[i])
            else:
                save_image(folder / f"{row:0{digits}d}.png", x[i])
    kind, sides = "voxels" if volumes else "images", data.shape[1:]
    size = sides[0] if len(set(sides)) == 1 else str(list(sides)).replace(" ", "")
    channels = "" if volumes and data.shape[0] == 1 else f" data.channels={data.shape[0]}"
    facts = {
        "data": type(data).__name__,
        "split": split,
        "seed": data.seed,
        "num": num,
        "shape": list(data.shape),
        "class_names": data.class_names,
        "read_with": f"data={kind} data.root=<this folder> data.size={size}{channels}",
    }
    write_json(out / "dataset.json", facts)
    return num


def save_voxels(path: Path, x: Tensor) -> None:
    """Save x [C, D, H, W] in [-1, 1] as .npy."""
    volume = (x[0] if len(x) == 1 else x).numpy()
    binary = bool((np.abs(volume) == 1).all())
    volume = (volume > 0).astype(np.uint8) if binary else (volume + 1) / 2
    with replacing(path) as file:
        np.save(file, volume)


def save_image(path: Path, x: Tensor) -> None:
    """Save x [1 or 3 or 4, H, W] in [-1, 1] as .png."""
    pixels = to_bytes(x).permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[..., 0] if len(x) == 1 else pixels)
    with replacing(path) as file:
        image.save(file, "PNG")
