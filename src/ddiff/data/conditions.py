"""Conditions of the samples of a data set, as rows that nets are told (`nets/conditions.py`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d

from ddiff.data.source import FolderSource, WindowSource
from ddiff.nets.conditions import (
    CLASS,
    LONGEST_TEXT,
    VECTOR,
    Layout,
    Number,
    Vector,
    encode_text,
)
from ddiff.system.errors import ConfigError, DdiffError

BLOCK = 4  # pixels or voxels a side whose mean `coarse` tells
EXAMPLES = 16  # samples of the validation set whose conditions a net keeps
DERIVED = ("mask", "coarse")  # pictures that are made of the sample itself

Column = Tensor | list[str]  # numbers [N], NaN where not given; vectors [N, D]; or texts
Picture = Callable[[Tensor, Tensor], Tensor]  # (x [B, C, *S], indices [B]) -> [B, C', *S]


@dataclass(eq=False)
class Teller:
    """Maker of the rows that a net is told of the samples of one source.

    - `layout`: of the rows.
    - `values`: numbers [N], vectors [N, D] or the bytes of texts [N, L], by the name of a part.
    - `pictures`: functions that make a picture, by the name of a part.
    """

    layout: Layout
    values: Mapping[str, Tensor]
    pictures: Mapping[str, Picture]

    @classmethod
    def of(cls, layout: Layout, told: Mapping[str, Column | Picture]) -> "Teller":
        """Return the teller of what is told by name."""
        values, pictures = {}, {}
        for name, found in told.items():
            if callable(found):
                pictures[name] = found
            else:
                values[name] = codes(found, layout) if isinstance(found, list) else found
        return cls(layout, values, pictures)

    def __call__(
        self,
        x: Tensor,
        y: Tensor | None,
        indices: Tensor,
        flipped: Tensor | None = None,
        random: torch.Generator | None = None,
    ) -> Tensor:
        """Return the rows [B, K] of samples x [B, C, *S] with labels y [B] or None.

        `flipped` [B]: of which samples the last axis was mirrored. `random`: a generator in the
        state from which windows of the samples were drawn; None: they were not.
        """
        parts = {name: values[indices] for name, values in self.values.items()}
        if CLASS in self.layout.parts:
            assert y is not None
            parts[CLASS] = y
        for name, picture in self.pictures.items():
            if not isinstance(picture, Paired):
                parts[name] = picture(x, indices)
                continue
            parts[name] = found = picture(x, indices, random)
            if flipped is not None:
                found[flipped] = found[flipped].flip(-1)
        return self.layout.packed(parts, len(indices))


def codes(texts: list[str], layout: Layout) -> Tensor:
    """Return the bytes of texts [N, L], most of which occur more than once."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return encode_text(list(places), layout.length)[[places[text] for text in texts]]


def solid(x: Tensor, _: Tensor) -> Tensor:
    """Return the mask of x [B, C, *S]: 1 where its first channel is above 0, else -1."""
    return torch.where(x[:, :1] > 0, 1.0, -1.0)


def coarse(x: Tensor, _: Tensor) -> Tensor:
    """Return x [B, C, *S] with each block of 4 pixels or voxels a side replaced by its mean."""
    pool = avg_pool2d if x.ndim == 4 else avg_pool3d
    low = pool(x, BLOCK)
    for axis in range(2, x.ndim):
        low = low.repeat_interleave(BLOCK, axis)
    return low


@dataclass(frozen=True)
class Paired:
    """Pictures in files of their own, one for each sample of a source.

    Where training draws windows of the samples, the same generator draws the same ones of these.
    """

    source: FolderSource

    def __call__(self, _: Tensor, indices: Tensor, random: torch.Generator | None = None) -> Tensor:
        if random is not None and isinstance(self.source, WindowSource):
            return self.source.drawn(indices, random)[0]
        return self.source.batch(indices)[0]


def derived(name: str) -> Picture:
    return solid if name == "mask" else coarse


def layout_from(
    shape: tuple[int, ...],
    num_classes: int | None,
    values: Mapping[str, Column],
    held_out: Mapping[str, Column],
    pictures: Mapping[str, int],
) -> Layout:
    """Return the layout of rows.

    - `values`: of the training set, by name: their law becomes the layout's.
    - `held_out`: of the validation set: the first ones become examples; with labels as numbers.
    - `pictures`: channels by name.
    """
    numbers, length, vector = {}, 0, None
    for name, found in values.items():
        if isinstance(found, list):
            length = max(len(text.encode()) for text in found)
            if length > LONGEST_TEXT:
                raise ConfigError(
                    f"data: a text has {length} bytes, and nets read {LONGEST_TEXT} at most"
                )
            length = min(LONGEST_TEXT, -(-length // 8) * 8)
            continue
        if name == VECTOR:
            rms = float(found.double().square().mean().sqrt())
            if not rms > 0:
                raise ConfigError("data.vectors: every entry is 0, which tells nothing")
            vector = Vector(found.shape[1], rms)
            continue
        given = found[~found.isnan()].double()
        if not len(given) or not bool(given.isfinite().all()):
            what = "no values" if not len(given) else "values that are not finite"
            raise DdiffError(f"data: {name} has {what} in the training set")
        low, high = float(given.min()), float(given.max())
        std = float(given.std(correction=0))
        if not std > 0:
            raise ConfigError(f"data: {name} is {low:g} for every sample, and tells nothing")
        numbers[name] = Number(float(given.mean()), std, low, high)
    examples = {}
    for name, found in held_out.items() if not (pictures or vector) else ():
        some = found[:EXAMPLES]
        examples[name] = some if isinstance(some, list) else [_plain(v) for v in some.tolist()]
    return Layout(tuple(shape), num_classes, numbers, length, pictures, examples, vector)


def _plain(value: float) -> float | int | None:
    return None if value != value else value


def check_names(names: Sequence[str], offered: Sequence[str], shape: Sequence[int]) -> None:
    """Raise ConfigError for a condition that the data do not offer, and for one said twice."""
    for name in names:
        if name not in offered:
            raise ConfigError(
                f"data.conditions: these data tell no {name!r}; choose from {', '.join(offered)}"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"data.conditions: {list(names)} says one twice")
    if "coarse" in names and any(side % BLOCK for side in shape[1:]):
        raise ConfigError(
            f"data.conditions: coarse is the mean of blocks of {BLOCK}, and the sides "
            f"{list(shape[1:])} do not divide by that"
        )
