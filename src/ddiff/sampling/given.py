"""Pictures and volumes that samples are made from: to change, to complete or to refine."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddiff.artifacts.trained import Trained
from ddiff.build import build
from ddiff.config.options import Draw, Sample
from ddiff.config.resolvers import judged
from ddiff.data.folders import ARRAYS, PICTURES, VOLUMES
from ddiff.data.images import read_image
from ddiff.data.opening import opened
from ddiff.data.preparing import Preparation
from ddiff.data.source import to_unit
from ddiff.data.volume_files import ending_of, volume_header
from ddiff.diffusion import Guidance, Objective, Plan
from ddiff.diffusion.known import Coarse, Known, Part, Posterior, begun_at, with_jumps
from ddiff.nets.autoencoder import Decoder
from ddiff.system.console import console
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.readers import read_array, read_header
from ddiff.system.value_range import RANGES

HELD_OUT = "held_out"  # from_image: the run's own validation samples, of which so much is known
HALF = "half"  # inpaint: the second half of the rows of a picture, or of the layers of a volume
MOST = 1000  # validation samples that are read
ENCODED = 16  # samples that are encoded at a time
NEEDS_IMAGE = {  # options that say something of from_image, as they are if it is not given
    "strength": None,
    "inpaint": None,
    "upscale": 1,
    "slices": 1,
    "jumps": 0,
    "posterior": 0,
    "known_noise": 0.0,
    "versions": 1,
    "value_range": "auto",
}
LEAST = {name: least for name, least in NEEDS_IMAGE.items() if type(least) is int}


@dataclass(frozen=True, eq=False)
class Given:
    """Pictures or volumes that samples are made from: the first `versions` samples from the first
    one, the next from the second, again from the first after the last.

    - `values`: [N, C, *S] in [-1, 1]; with `upscale`, [N, C, *S / upscale].
    - `strength`: the part of the schedule's times that is gone through, from 1, pure noise, down.
    - `anew`: bool [*S], True where samples are made anew and not kept; None: nothing is kept.
    - `upscale`: `values` are the means of so many pixels a side; 1: they are the pixels.
    - `jumps`: times that every step is taken back and made again.
    - `posterior`: iterations of posterior guidance in every step; 0: none.
    - `noise`: the standard deviation of the noise in what is known, in units of [-1, 1].
    """

    values: Tensor
    strength: float = 0.5
    anew: Tensor | None = None
    upscale: int = 1
    jumps: int = 0
    posterior: int = 0
    noise: float = 0.0
    versions: int = 1

    def of(self, samples: Tensor) -> Tensor:
        """Return what the samples with these numbers [B] are made from."""
        return self.values[samples.cpu() // self.versions % len(self.values)]

    def plan(self, plan: Plan) -> Plan:
        """Return the plan that these samples are made by."""
        if self.posterior and plan.shortcuts:
            raise ConfigError("posterior: not with solver=few, whose net estimates no x_0")
        return made_by(plan, self.strength, self.jumps)

    def known(self, samples: Tensor) -> Known | None:
        """Return what is known of the samples with these numbers, [B] int64."""
        values = self.of(samples).to(samples.device)
        if self.upscale > 1:
            return Coarse(values, self.upscale)
        return None if self.anew is None else Part(values, ~self.anew.to(samples.device))

    def guidance(
        self,
        known: Known | None,
        guidance: Guidance,
        plan: Plan,
        objective: Objective,
        clamp: float | None,
    ) -> Guidance:
        """Return the guidance, with posterior guidance around it where that was asked for."""
        if not self.posterior or known is None:
            return guidance
        return Posterior(known, plan, objective, guidance, self.posterior, self.noise, clamp)

    def begin(self, noise: Tensor, samples: Tensor, plan: Plan) -> tuple[Tensor, Known | None]:
        """Return x at the first time of the plan, and what is known of the samples.

        At strength 1 nothing but what is known is told to the samples.
        """
        known = self.known(samples)
        if self.strength < 1 and self.upscale == 1:
            start = self.of(samples).to(noise)
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


def made_by(plan: Plan, strength: float, jumps: int) -> Plan:
    """Return the rows of a plan that samples of this strength are made by, with jumps."""
    t = round(strength * plan.schedule.T)
    return with_jumps(begun_at(plan, t) if strength < 1 else plan, jumps)


def strength_of(said: float | None, known: bool) -> float:
    """Return the strength, which is 1 by default where something of the samples is known."""
    return said if said is not None else 1.0 if known else 0.5


def given_of(options: Draw, trained: Trained) -> Given | None:
    """Read what the samples of a net are made from; None without `from_image`.

    Raises ConfigError for options that need another one, DdiffError for files that do not fit.
    """
    asked = {name: getattr(options, name) for name in NEEDS_IMAGE}
    if options.from_image is None:
        refuse_alone(options)
        return None
    refuse_in_latents(trained, asked)
    shape = trained.shape
    if options.from_image == HELD_OUT:
        _wanted(shape, options.upscale, options.slices, None)  # refuses what does not go
        values = held_out(trained)
        if options.upscale > 1:
            values = Coarse(values, options.upscale).measured(values)
    else:
        values = _read(Path(options.from_image), options, trained)
    mask = options.inpaint and Path(options.inpaint)
    if options.inpaint == HALF:
        anew = _half(shape)
    elif mask and is_volume_file(mask, shape):
        anew = _prepared(trained, (1, *shape[1:]), (0, 1))(mask)[0] > -1
    else:
        anew = _mask(mask, shape) if mask else None
    given = _given(values, anew, shape, asked)
    kept = "" if given.anew is None else f", {given.anew.float().mean():.0%} of each made anew"
    console.print(f"from        {options.from_image}  {list(values.shape)}{kept}")
    return in_latents(given, trained)


def _read(path: Path, options: Draw, trained: Trained) -> Tensor:
    """Read a file or a folder, as [N, C, *S / upscale] or with every n-th slice alone."""
    shape = trained.shape
    single = is_volume_file(path, shape)
    axis = _axis(path, shape, options.slices, trained if single else None)
    wanted, steps = _wanted(shape, options.upscale, options.slices, axis)
    if not single:
        return _values(path, wanted, options.value_range)
    window = trained.data.get("values")
    if options.value_range != "auto":
        window = RANGES[options.value_range]
    return to_unit(_prepared(trained, wanted, window, steps)(path))[None]


def held_out(trained: Trained) -> Tensor:
    """Return validation samples of a run, [<= MOST, C, *S]."""
    data = build(judged(trained.options.data))
    data.prepare_data()
    data.setup("fit")
    x, _ = data.val.batch(torch.arange(min(MOST, len(data.val))))
    if tuple(x.shape[1:]) != tuple(trained.shape):
        raise ConfigError(
            f"from_image: held-out samples have shape {list(x.shape[1:])}, and this net draws "
            f"{list(trained.shape)}"
        )
    return x


def _half(shape: tuple[int, ...]) -> Tensor:
    """Return True in the second half along the first axis, bool [*S]."""
    rows = torch.arange(shape[1]) >= shape[1] // 2
    return rows.view(-1, *[1] * (len(shape) - 2)).expand(shape[1:])


def refuse_alone(options: Draw) -> None:
    """Raise ConfigError for options that say something of `from_image`, which is not given.

    In ddiff.evaluate `value_range` is of other files too.
    """
    _refuse({name: getattr(options, name) for name in NEEDS_IMAGE if name != "value_range"})
    if isinstance(options, Sample):
        _refuse({"value_range": options.value_range})


def refuse_in_latents(trained: Trained, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for what a net in latents cannot do with a picture: to keep a part of it.

    The encoder is in the run, not in exported files.
    """
    if not trained.decoder:
        return
    changed = (n for n, value in NEEDS_IMAGE.items() if options.get(n, value) != value)
    for name in changed:
        if name not in ("strength", "versions", "value_range"):
            raise ConfigError(
                f"{name}: this net draws latents, in which no part of a picture can be kept; "
                "strength= alone goes, or a net that was trained on the data themselves"
            )
    if not isinstance(trained.decoder, Decoder):
        raise ConfigError("from_image: exported files have no encoder; sample from the run")


def in_latents(given: Given, trained: Trained) -> Given:
    """Return the same of a net in latents, which sees what the encoder makes of the values."""
    if not isinstance(trained.decoder, Decoder):
        return given
    device, encoder = trained.decoder.mean.device, trained.decoder
    parts = [encoder.encoded(x.to(device)).float().cpu() for x in given.values.split(ENCODED)]
    return replace(given, values=torch.cat(parts))


def given_arrays(
    from_image: np.ndarray | None,
    inpaint: np.ndarray | None,
    shape: tuple[int, ...],
    **options: Any,
) -> Given | None:
    """Return what samples of `shape` [C, *S] are made from; None without `from_image`.

    `options`: the others of NEEDS_IMAGE, without `value_range`. Raises ConfigError for arrays that
    do not fit and options that exclude others.
    """
    if from_image is None:
        _refuse(options | {"inpaint": None if inpaint is None else "a mask"})
        return None
    strength, upscale, slices = (options[name] for name in ("strength", "upscale", "slices"))
    if strength is not None and not 0 < strength <= 1:
        raise ConfigError(f"strength: {strength} is not above 0 and at most 1")
    for name, least in LEAST.items():
        if options[name] < least:
            raise ConfigError(f"{name}: at least {least}, not {options[name]}")
    if not 0 <= options["known_noise"] < float("inf"):
        raise ConfigError(f"known_noise: {options['known_noise']} is not 0 or more")
    values = torch.as_tensor(np.asarray(from_image, dtype=np.float32))
    mask = None if inpaint is None else torch.as_tensor(np.asarray(inpaint) != 0)
    axis = _thin(values.shape[-len(shape) + 1 :], shape, slices)
    wanted, _ = _wanted(shape, upscale, slices, axis)
    if values.shape[1:] != wanted or not len(values):
        raise ConfigError(f"from_image: has shape {list(values.shape)}, not [N, *{list(wanted)}]")
    if not bool((values.abs() <= 1).all()):  # also where one is not a number
        raise ConfigError("from_image: has values outside -1..1")
    if mask is not None and mask.shape != shape[1:]:
        raise ConfigError(f"inpaint: has shape {list(mask.shape)}, not {list(shape[1:])}")
    return _given(values, mask, shape, options)


def _axis(path: Path, shape: tuple[int, ...], slices: int, trained: Trained | None) -> int | None:
    """Return the axis of S along which a file has every n-th slice alone; None if it has all.

    `trained` is given for a file of one volume.
    """
    if slices == 1:
        return None
    if trained is None:
        if path.is_dir():
            raise ConfigError("slices: take a volume or a .npy, not a folder")
        return _thin(read_header(path, "the volumes").shape[1 - len(shape) :], shape, slices)
    header, spacing = volume_header(path, shape[1:]), trained.options.data.get("spacing")
    if not (spacing and header.spacing):
        return _thin(header.shape[-3:], shape, slices)
    pairs = zip(header.spacing, spacing, strict=True)
    return _thickest([there / here for there, here in pairs], slices)


def _thin(sides: Sequence[int], shape: tuple[int, ...], slices: int) -> int | None:
    """Return the axis of S along which `sides` are so many times fewer; None if none is."""
    if slices == 1 or len(sides) != len(shape) - 1 or not all(sides):
        return None
    return _thickest([n / side for n, side in zip(shape[1:], sides, strict=True)], slices)


def _thickest(ratios: Sequence[float], slices: int) -> int | None:
    """Return the axis with the largest ratio, if that is nearer to `slices` than to 1."""
    largest = max(ratios)
    return ratios.index(largest) if largest > slices**0.5 else None


def _wanted(
    shape: tuple[int, ...], factor: int, slices: int, axis: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape [C, *S] that from_image must have, and how many times fewer its sides are.

    Raises ConfigError for options that exclude each other.
    """
    sides = shape[1:]
    if slices == 1:
        if any(side % factor for side in sides):
            raise ConfigError(f"upscale: {factor} does not divide the sides {list(sides)}")
        return (shape[0], *(side // factor for side in sides)), (factor,) * len(sides)
    if factor > 1:
        raise ConfigError("slices: do not go with upscale; do one after the other")
    if len(sides) != 3:
        raise ConfigError("slices: are those of volumes, and this run makes pictures")
    if slices > min(sides):
        raise ConfigError(f"slices: {slices} is more than a side of {list(sides)}")
    steps = tuple(slices if i == axis else 1 for i in range(3))
    return (shape[0], *(-(-n // step) for n, step in zip(sides, steps, strict=True))), steps


def _refuse(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for options that say something of what is not given."""
    for name, value in options.items():
        if value != NEEDS_IMAGE[name]:
            raise ConfigError(f"{name}: needs from_image=")


def _given(
    values: Tensor, anew: Tensor | None, shape: tuple[int, ...], options: Mapping[str, Any]
) -> Given:
    """Return what samples of `shape` are made from, of values [N, C, ..] and the options of
    NEEDS_IMAGE. Raises ConfigError for options that exclude each other."""
    upscale, slices = options["upscale"], options["slices"]
    if anew is not None and not anew.any():
        raise ConfigError("inpaint: marks nothing to be made anew (it is 0 everywhere)")
    if upscale > 1 and anew is not None:
        raise ConfigError("inpaint: does not go with upscale; do one after the other")
    if slices > 1:
        if anew is not None:
            raise ConfigError("slices: do not go with inpaint")
        values, anew = between_slices(values, shape, slices)
    something_known = upscale > 1 or anew is not None
    for name in ("jumps", "posterior"):
        if options[name] and not something_known:
            raise ConfigError(f"{name}: needs inpaint=, slices= or upscale=")
    if options["known_noise"] and not options["posterior"]:
        raise ConfigError("known_noise: needs posterior=5 or so")
    return Given(
        values,
        strength_of(options["strength"], something_known),
        anew,
        upscale,
        options["jumps"],
        options["posterior"],
        options["known_noise"],
        options["versions"],
    )


def between_slices(values: Tensor, shape: tuple[int, ...], slices: int) -> tuple[Tensor, Tensor]:
    """Return values [N, C, *S] and where they are made anew [*S], of volumes that have every
    n-th slice alone, or of whole ones, of which those along the last axis are kept."""
    axes = [i for i in range(3) if values.shape[2 + i] != shape[1 + i]]
    axis = axes[0] if axes else 2
    known = torch.arange(0, shape[1 + axis], slices)
    anew = torch.ones(shape[1:], dtype=torch.bool).index_fill_(axis, known, False)
    if axes:
        whole = values.new_zeros(len(values), *shape)
        values = whole.index_copy_(2 + axis, known, values)
    return values, anew


def is_volume_file(path: Path, shape: tuple[int, ...]) -> bool:
    """Return True for a file of one volume, not of an array. Raises ConfigError for other files."""
    if len(shape) != 4 or path.is_dir() or ending_of(path) in ARRAYS:
        return path.suffix == ".zarr" and len(shape) == 4
    if ending_of(path) not in VOLUMES:
        raise ConfigError(f"{path}: volumes end in {', '.join(VOLUMES)}")
    return True


def _prepared(
    trained: Trained,
    shape: tuple[int, ...],
    window: Sequence[float] | None,
    steps: Sequence[int] = (1, 1, 1),
) -> Preparation:
    """Return what reads a volume as the training data were read, or one of so many times fewer
    voxels along each axis."""
    data = trained.options.data
    fit, spacing = data.get("fit", "exact"), data.get("spacing")
    return Preparation(
        shape,
        "pad_crop" if fit == "random_crop" else fit,
        values="unit",
        window=window,
        percentiles=None if window else data.get("percentiles"),
        spacing=spacing and [step * one for step, one in zip(steps, spacing, strict=True)],
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
