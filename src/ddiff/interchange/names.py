"""Names of the U-Net's tensors in other libraries: one map, read in both directions.

diffusers' `UNet2DModel` and MONAI's `DiffusionModelUNet` are the same net as `ddiff.nets.UNet`.
They name its parts otherwise, and keep three matrices (q, k, v) where ddiff keeps one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ddiff.system.errors import DdiffError

Names = dict[str, tuple[str, ...]]  # ours -> theirs: one, or q, k and v
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Library:
    """The names that a library gives to the parts of the U-Net.

    `res`, `attention` and `resample` are the places of a residual block, of the attention after it
    and of the convolution that changes the size. {level} counts the blocks of a side in the order
    in which they run, {n} the residual blocks of a level.
    """

    name: str
    outside: Mapping[str, str]  # of all blocks: ours -> theirs
    res: Mapping[str, str]  # side -> place
    attention: Mapping[str, str]
    resample: Mapping[str, str]
    in_res: Mapping[str, str]  # ours -> theirs
    in_attention: Mapping[str, tuple[str, ...]]
    older: tuple[tuple[str, str], ...]  # patterns of earlier names, and what takes their place


DIFFUSERS = Library(
    name="diffusers",
    outside={
        "condition.embedding.mlp.0": "time_embedding.linear_1",
        "condition.embedding.mlp.2": "time_embedding.linear_2",
        "stem": "conv_in",
        "norm": "conv_norm_out",
        "out": "conv_out",
    },
    res={
        "down": "down_blocks.{level}.resnets.{n}",
        "middle": "mid_block.resnets.{n}",
        "up": "up_blocks.{level}.resnets.{n}",
    },
    attention={
        "down": "down_blocks.{level}.attentions.{n}",
        "middle": "mid_block.attentions.{n}",
        "up": "up_blocks.{level}.attentions.{n}",
    },
    resample={
        "down": "down_blocks.{level}.downsamplers.0.conv",
        "up": "up_blocks.{level}.upsamplers.0.conv",
    },
    in_res={
        "norm1": "norm1",
        "conv1": "conv1",
        "modulate": "time_emb_proj",
        "norm2": "norm2",
        "conv2": "conv2",
        "shortcut": "conv_shortcut",
    },
    in_attention={
        "norm": ("group_norm",),
        "qkv": ("to_q", "to_k", "to_v"),
        "project": ("to_out.0",),
    },
    older=(
        (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
        (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
        (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
        (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
    ),
)
MONAI = Library(
    name="MONAI",
    outside={
        "condition.embedding.mlp.0": "time_embed.0",
        "condition.embedding.mlp.2": "time_embed.2",
        "stem": "conv_in.conv",
        "norm": "out.0",
        "out": "out.2.conv",
    },
    res={
        "down": "down_blocks.{level}.resnets.{n}",
        "middle": "middle_block.resnet_{n_from_1}",
        "up": "up_blocks.{level}.resnets.{n}",
    },
    attention={
        "down": "down_blocks.{level}.attentions.{n}",
        "middle": "middle_block.attention",
        "up": "up_blocks.{level}.attentions.{n}",
    },
    resample={
        "down": "down_blocks.{level}.downsampler.op.conv",
        "up": "up_blocks.{level}.upsampler.postconv.conv",
    },
    in_res={
        "norm1": "norm1",
        "conv1": "conv1.conv",
        "modulate": "time_emb_proj",
        "norm2": "norm2",
        "conv2": "conv2.conv",
        "shortcut": "skip_connection.conv",
    },
    in_attention={
        "norm": ("norm",),
        "qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "project": ("attn.out_proj",),
    },
    older=(  # MONAI Generative
        (r"(attentions\.\d+|attention)\.(to_[qkv])\.", r"\1.attn.\2."),
        (r"(attentions\.\d+|attention)\.proj_attn\.", r"\1.attn.out_proj."),
        (r"upsampler\.conv\.conv\.", r"upsampler.postconv.conv."),
    ),
)


class Place(NamedTuple):
    """The place of a layer of `UNet.down`, `middle` or `up`: the n-th of its level."""

    side: str
    level: int
    n: int
    resamples: bool = False

    def in_words(self, pattern: str) -> str:
        return pattern.format(level=self.level, n=self.n, n_from_1=self.n + 1)


def places(levels: int, num_blocks: int) -> Iterator[tuple[str, Place]]:
    """Yield every layer of a U-Net by its name in ddiff, and its place."""
    number = 0
    for level in range(levels):
        last = level == levels - 1
        for n in range(num_blocks + (not last)):
            yield f"down.{number}", Place("down", level, n, resamples=n == num_blocks)
            number += 1
    yield from ((f"middle.{n}", Place("middle", 0, n)) for n in (0, 1))
    number = 0
    for level in range(levels):
        last = level == levels - 1
        for n in range(num_blocks + 1 + (not last)):
            yield f"up.{number}", Place("up", level, n, resamples=n == num_blocks + 1)
            number += 1


def names_in(library: Library, ours: Iterable[str], levels: int, num_blocks: int) -> Names:
    """Return the names in `library` of the tensors of a `UNet`.

    - `ours`: the names in the state dict of the net.
    - `levels`, `num_blocks`: of the net's options.
    """
    where = dict(places(levels, num_blocks))
    found: Names = {}
    for name in ours:
        layer, _, kind = name.rpartition(".")  # kind: weight or bias
        side, _, rest = layer.partition(".")
        number, _, inside = rest.partition(".")
        if layer in library.outside:
            theirs: tuple[str, ...] = (library.outside[layer],)
        else:
            place = where[f"{side}.{number}"]
            part, _, role = inside.partition(".")
            if place.resamples:
                theirs = (place.in_words(library.resample[side]),)
            elif part == "res":
                theirs = (f"{place.in_words(library.res[side])}.{library.in_res[role]}",)
            else:
                attention = place.in_words(library.attention[side])
                theirs = tuple(f"{attention}.{one}" for one in library.in_attention[role])
        found[name] = tuple(f"{one}.{kind}" for one in theirs)
    return found


def to_theirs(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Return the tensors of ddiff under another library's names, q, k and v apart."""
    return {
        name: part.contiguous()
        for ours, theirs in names.items()
        for name, part in zip(theirs, state[ours].chunk(len(theirs)), strict=True)
    }


def with_current_names(state: Mapping[str, Tensor], library: Library) -> dict[str, Tensor]:
    """Return the tensors under the names that the library gives them today."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, now in library.older:
            name = re.sub(pattern, now, name)
        if re.search(r"\.attn\.qkv\.(weight|bias)$", name):  # MONAI's use_combined_linear
            thirds = zip("qkv", value.chunk(3), strict=True)
            found |= {name.replace(".qkv.", f".to_{one}."): part for one, part in thirds}
        else:
            found[name] = value
    return found


def to_ours(
    state: Mapping[str, Tensor],
    names: Names,
    library: Library,
    shapes: Mapping[str, tuple[int, ...]],
    path: Path,
) -> dict[str, Tensor]:
    """Return the tensors of a file of another library as the state dict of a `UNet`, float32.

    - `shapes`: of the net's own tensors, by their names in ddiff.
    - `path`: the file, for messages.

    Raises DdiffError for tensors that are missing, unknown or of another shape.
    """
    state = with_current_names(state, library)
    wanted = {name for theirs in names.values() for name in theirs}
    if missing := sorted(wanted - state.keys()):
        raise DdiffError(f"{path} does not fit its config: it lacks {listed(missing)}")
    if extra := sorted(state.keys() - wanted):
        raise DdiffError(
            f"{path} does not fit its config: it also holds {listed(extra)}, which that net has not"
        )
    found = {}
    for ours, theirs in names.items():
        rows = shapes[ours][0] // len(theirs)
        for name in theirs:
            shape = (rows, *shapes[ours][1:])
            if tuple(state[name].shape) != shape:
                raise DdiffError(
                    f"{path} does not fit its config: {name} is {in_words(state[name].shape)} in "
                    f"the file and {in_words(shape)} by the config"
                )
        found[ours] = torch.cat([state[name].float() for name in theirs])
    return found


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def in_words(shape: Iterable[int]) -> str:
    """A shape as 32x3x3x3."""
    return "x".join(map(str, shape)) or "a number"
