"""Pictures and volumes that samples are made from: to change, to complete or to refine."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddiff.artifacts.trained import Trained
from ddiff.config.options import Sample
from ddiff.data.folders import ARRAYS, PICTURES, VOLUMES
from ddiff.data.images import read_image
from ddiff.data.opening import opened
from ddiff.data.preparing import Preparation
from ddiff.data.source import to_unit
from ddiff.data.volume_files import ending_of
from ddiff.diffusion import Plan
from ddiff.diffusion.known import Coarse, Known, Part, begun_at, with_jumps
from ddiff.system.console import console
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.readers import read_array
from ddiff.system.value_range import RANGES

NEEDS_IMAGE = {"strength": None, "inpaint": None, "upscale": 1, "jumps": 0, "value_range": "auto"}


@dataclass(frozen=True, eq=False)
class Given:
    """Pictures or volumes that samples are made from: sample i from number i, again from the first
    after the last.

    - `values`: [N, C, *S] in [-1, 1]; with `upscale`, [N, C, *S / upscale].
    - `strength`: the part of the schedule's times that is gone through, from 1, pure noise, down.
    - `anew`: bool [*S], True where samples are made anew and not kept; None: nothing is kept.
    - `upscale`: `values` are the means of so many pixels a side; 1: they are the pixels.
    - `jumps`: times that every step is taken back and made again.
    """

    values: Tensor
    strength: float = 0.5
    anew: Tensor | None = None
    upscale: int = 1
    jumps: int = 0

    def plan(self, plan: Plan) -> Plan:
        """Return the plan that these samples are made by."""
        t = round(self.strength * plan.schedule.T)
        return with_jumps(begun_at(plan, t) if self.strength < 1 else plan, self.jumps)

    def known(self, samples: Tensor) -> Known | None:
        """Return what is known of the samples with these numbers, [B] int64."""
        values = self.values[samples.cpu() % len(self.values)].to(samples.device)
        if self.upscale > 1:
            return Coarse(values, self.upscale)
        return None if self.anew is None else Part(values, ~self.anew.to(samples.device))

    def begin(self, noise: Tensor, samples: Tensor, plan: Plan) -> tuple[Tensor, Known | None]:
        """Return x at the first time of the plan, and what is known of the samples.

        At strength 1 nothing but what is known is told to the samples.
        """
        known = self.known(samples)
        if self.strength < 1 and self.upscale == 1:
            start = self.values[samples.cpu() % len(self.values)].to(noise)
        elif known is not None:
            start = known.guess
        else:
            return noise, None
        abar = plan.schedule.abar[plan.times[0]].item()
        return abar**0.5 * start + (1 - abar) ** 0.5 * noise, known

    def digest(self) -> str:
        """Hash of the values and the mask."""
        found = hashlib.sha256(repr(self.values.shape).encode())
        for part in (self.values, self.anew):
            if part is not None:
                found.update(part.contiguous().numpy().tobytes())
        return found.hexdigest()[:16]


def given_of(options: Sample, trained: Trained) -> Given | None:
    """Read what the samples of a net are made from; None without `from_image`.

    Raises ConfigError for options that need another one, DdiffError for files that do not fit.
    """
    if options.from_image is None:
        _refuse({name: getattr(options, name) for name in NEEDS_IMAGE})
        return None
    refuse_latents(trained)
    shape, factor = trained.shape, options.upscale
    coarse = _coarse(shape, factor)
    path, mask = Path(options.from_image), options.inpaint and Path(options.inpaint)
    if is_volume_file(path, shape):
        window = trained.data.get("values")
        if options.value_range != "auto":
            window = RANGES[options.value_range]
        values = to_unit(_prepared(trained, coarse, window, factor)(path))[None]
    else:
        values = _values(path, coarse, options.value_range)
    if mask and is_volume_file(mask, shape):
        anew = _prepared(trained, (1, *shape[1:]), (0, 1))(mask)[0] > -1
    else:
        anew = _mask(mask, shape) if mask else None
    given = _given(values, options.strength, anew, factor, options.jumps)
    kept = "" if anew is None else f", {anew.float().mean():.0%} of each made anew"
    console.print(f"from        {options.from_image}  {list(values.shape)}{kept}")
    return given


def refuse_latents(trained: Trained) -> None:
    """Raise ConfigError for a net in latents."""
    if trained.decoder:
        raise ConfigError(
            "from_image: this net draws latents, in which nothing of a picture can be kept; a net "
            "that was trained on the data themselves can"
        )


def given_arrays(
    from_image: np.ndarray | None,
    strength: float | None,
    inpaint: np.ndarray | None,
    upscale: int,
    jumps: int,
    shape: tuple[int, ...],
) -> Given | None:
    """Return what samples of `shape` [C, *S] are made from; None without `from_image`.

    Raises ConfigError for arrays that do not fit and options that exclude others.
    """
    if from_image is None:
        masked = None if inpaint is None else "a mask"
        _refuse({"strength": strength, "inpaint": masked, "upscale": upscale, "jumps": jumps})
        return None
    if strength is not None and not 0 < strength <= 1:
        raise ConfigError(f"strength: {strength} is not above 0 and at most 1")
    if upscale < 1 or jumps < 0:
        raise ConfigError(f"upscale: at least 1, and jumps at least 0; not {upscale} and {jumps}")
    values = torch.as_tensor(np.asarray(from_image, dtype=np.float32))
    mask = None if inpaint is None else torch.as_tensor(np.asarray(inpaint) != 0)
    wanted = _coarse(shape, upscale)
    if values.shape[1:] != wanted or not len(values):
        raise ConfigError(f"from_image: has shape {list(values.shape)}, not [N, *{list(wanted)}]")
    if not bool((values.abs() <= 1).all()):  # also where one is not a number
        raise ConfigError("from_image: has values outside -1..1")
    if mask is not None and mask.shape != shape[1:]:
        raise ConfigError(f"inpaint: has shape {list(mask.shape)}, not {list(shape[1:])}")
    return _given(values, strength, mask, upscale, jumps)


def _coarse(shape: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """Return [C, *S / factor]. Raises ConfigError where it does not divide a side."""
    if any(side % factor for side in shape[1:]):
        raise ConfigError(f"upscale: {factor} does not divide the sides {list(shape[1:])}")
    return (shape[0], *(side // factor for side in shape[1:]))


def _refuse(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for options that say something of what is not given."""
    for name, value in options.items():
        if value != NEEDS_IMAGE[name]:
            raise ConfigError(f"{name}: needs from_image=")


def _given(
    values: Tensor, strength: float | None, anew: Tensor | None, upscale: int, jumps: int
) -> Given:
    if anew is not None and not anew.any():
        raise ConfigError("inpaint: marks nothing to be made anew (it is 0 everywhere)")
    if upscale > 1 and anew is not None:
        raise ConfigError("inpaint: does not go with upscale; do one after the other")
    something_known = upscale > 1 or anew is not None
    if jumps and not something_known:
        raise ConfigError("jumps: need inpaint= or upscale=")
    default = 1.0 if something_known else 0.5
    return Given(values, default if strength is None else strength, anew, upscale, jumps)


def is_volume_file(path: Path, shape: tuple[int, ...]) -> bool:
    """Return True for a file of one volume, not of an array. Raises ConfigError for other files."""
    if len(shape) != 4 or path.is_dir() or ending_of(path) in ARRAYS:
        return path.suffix == ".zarr" and len(shape) == 4
    if ending_of(path) not in VOLUMES:
        raise ConfigError(f"{path}: volumes end in {', '.join(VOLUMES)}")
    return True


def _prepared(
    trained: Trained, shape: tuple[int, ...], window: Sequence[float] | None, coarser: int = 1
) -> Preparation:
    """Return what reads a volume as the training data were read, or one of so many times fewer
    voxels a side."""
    data = trained.options.data
    fit, spacing = data.get("fit", "exact"), data.get("spacing")
    return Preparation(
        shape,
        "pad_crop" if fit == "random_crop" else fit,
        values="unit",
        window=window,
        percentiles=None if window else data.get("percentiles"),
        spacing=spacing and [coarser * one for one in spacing],
    )


def _values(path: Path, shape: tuple[int, ...], value_range: str) -> Tensor:
    """Read a picture, a folder, or an array of samples or of one sample, as [N, C, *S]."""
    if path.suffix.lower() in PICTURES and len(shape) == 3 and not path.is_dir():
        return to_unit(read_image(path, shape))[None]
    return opened(path, shape, value_range, single=True).first(10**9)


def _mask(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Read where samples are made anew, bool [*S]: not 0, or the bright part of a picture."""
    sides = shape[1:]
    if path.suffix.lower() in PICTURES and len(sides) == 2:
        return read_image(path, (1, *sides))[0] > 127
    numbers = read_array(path, "the mask", mapped=False)
    numbers = numbers[0] if numbers.shape == (1, *sides) else numbers
    if numbers.shape != sides:
        raise DdiffError(
            f"inpaint: {path} has shape {list(numbers.shape)}; the samples have {list(sides)}"
        )
    return torch.from_numpy(np.ascontiguousarray(numbers != 0))
