"""Writing of samples: numbers streamed batch by batch, pictures and meshes of the first ones."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from ddiff.artifacts.trained import Trained
from ddiff.backends import device_of
from ddiff.build import build
from ddiff.config.options import Draw, Sample
from ddiff.data.volume_files import require
from ddiff.profiling import Off, Profiled, bytes_of
from ddiff.sampling.conditions import conditions_for, described, examples_of, row_length
from ddiff.sampling.generation import Generation, drawing, generation_of
from ddiff.sampling.given import HELD_OUT, MOST, NEEDS_IMAGE, Given
from ddiff.sampling.volumes import Original, volume_path, volumes_beside, write_volumes
from ddiff.system.console import console, progress
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import check_outputs, write_json
from ddiff.system.phases import phase

PICTURED = {4: 100, 5: 16}  # by dimensions of [N, C, *S]
SAMPLING = ("num_samples", "batch_size", "y", "seed", "clamp", "weights",
            "solver", "guidance", "precision", "backend")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Request:
    """Samples to be drawn into a .npy, with a record beside it.

    `first` is the number of the first one, and `y_period` that after which y=each begins again.
    """

    trained: Trained
    generation: Generation
    options: Draw
    npy: Path
    first: int = 0
    y_period: int | None = None

    @property
    def number(self) -> int:
        return self.options.num_samples

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.number, *self.generation.sample_shape)

    @property
    def period(self) -> int:
        return self.y_period or self.number

    @cached_property
    def y(self) -> Tensor | None:
        """Conditions of the samples, labels [N] or rows [N, K]; None if it is nothing.

        With y=auto samples made from held-out ones are told what the data tell of these.
        """
        options, layout, examples = self.options, self.generation.layout, examples_of(self.trained)
        if options.from_image == HELD_OUT and options.y == "auto" and layout:
            told = examples(MOST)
            assert told is not None
            numbers = torch.arange(self.first, self.first + self.number)
            return told[numbers // options.versions % len(told)]
        return conditions_for(options.y, self.number, layout, examples, self.first, self.period)

    def asked(self) -> dict[str, Any]:
        """Return what the record says of the conditions: labels as `y`, else values by name."""
        if self.y is None or self.y.ndim == 1:
            return {"y": None if self.y is None else self.y.tolist()}
        return {"y": None, "conditions": described(self.y, self.generation.layout)}


Drawing = Callable[[Request], dict[str, Any]]  # `draw`, or one that lets other processes draw


def write_samples(
    trained: Trained,
    options: Sample,
    drawn_by: Drawing | None = None,
    given: Given | None = None,
) -> None:
    """Draw samples and write them with a record, a picture and, for volumes, meshes.

    The files are <out>.npy, <out>.json (how they were made, and their labels), <out>.png,
    <out>_0000.ply ..., and with `write` <out>_0000.nii.gz ... like the training files. Prints where
    they are. Files that exist are refused unless `overwrite`.
    """
    original = Original.of(trained) if options.write else None
    generation = generation_of(trained, **drawing(options), given=given)
    out = Path(options.out) if options.out else default_out(trained, generation, options)
    if not options.out and options.first:
        out = out.with_name(f"{out.name}_from{options.first}")
    out = out.with_suffix("") if out.suffix in (".npy", ".png") else out
    npy = out.with_name(out.name + ".npy")
    request = Request(trained, generation, options, npy, options.first, options.y_period)
    profiler, subject = build(options.profiler), _subject(generation, out)
    if drawn_by and not isinstance(profiler, Off):
        raise ConfigError("profiler: looks at this process, which does not draw under engine=")
    written = [out.with_name(out.name + ending) for ending in (".npy", ".json", ".png")]
    written += [] if isinstance(profiler, Off) else [subject.folder / "profile.json"]
    check_outputs(written, options.overwrite)
    singles, new = volumes_beside(out), []
    if options.write:
        require(out, f".{options.write}")
        new = [volume_path(out, i, options.write) for i in range(options.num_samples)]
    check_outputs([*singles, *new], options.overwrite)
    with profiler.watching(subject):
        made = (drawn_by or draw)(request)
    for old in (*singles, written[2]):  # of samples that were replaced
        old.unlink(missing_ok=True)
    if original and options.write:
        write_volumes(np.load(npy, mmap_mode="r"), out, original, options.write)
        write_json(npy.with_suffix(".json"), {**made, "files": original.facts(options.write)})
        console.print(f"volumes     {volume_path(out, 0, options.write)} ...")
    if options.picture:
        samples = np.load(npy, mmap_mode="r")
        columns = row_length(request.y)
        _pictures(samples[: PICTURED[samples.ndim]], out, options.mesh, columns)
        _asked_pictures(request, out)


def _subject(generation: Generation, out: Path) -> Profiled:
    """Describe the sampling for a profile, which is written beside the samples."""
    folder = out.with_name(out.name + "_profile")

    def board() -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder / "tensorboard"))

    def held() -> dict[str, int]:
        return {"weights": bytes_of(generation.net)}

    return Profiled("sampling", device_of(generation.net), folder, board, held)


def draw(request: Request) -> dict[str, Any]:
    """Stream samples to the .npy, write how they were made to the .json beside it, and return
    that."""
    generation, number = request.generation, request.number
    started = time.perf_counter()
    batches = sampled(generation, number, request.options.batch_size, request.y, request.first)
    stream(_numbers(batches), request.npy, request.shape)
    drawn = {
        "precision": generation.precision.dtype,
        "backend": generation.backend.name,
        "evaluations": generation.evaluations,
        "seconds_per_sample": (time.perf_counter() - started) / number,
    }
    return write_record(request, drawn)


def write_record(request: Request, drawn: dict[str, Any]) -> dict[str, Any]:
    """Write how samples were made to the .json beside them, and return that."""
    made = {
        **origin_of(request.trained, request.options, request.generation.given),
        "first": request.first,
        "y_period": request.period,
        **request.asked(),
        **drawn,
    }
    write_json(request.npy.with_suffix(".json"), made)
    console.print(f"samples     {request.npy}  {list(request.shape)}")
    return made


def origin_of(trained: Trained, options: Draw, given: Given | None = None) -> dict[str, Any]:
    """Everything that decides the samples: the options, the net, how long it was trained, and what
    the samples are made from."""
    names = SAMPLING if given is None else (*SAMPLING, "from_image", *NEEDS_IMAGE)
    made_from = {} if given is None else {"given": given.digest()}
    return {
        "options": {name: _plain(getattr(options, name)) for name in names} | made_from,
        "net": trained.digest,
        "step": trained.step,
        "spent": trained.spent,
    }


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def default_out(trained: Trained, generation: Generation, options: Draw) -> Path:
    name = "_".join([_name(generation, options), *made_from(vars(options))])
    return trained.run_dir / "samples" / name


def made_from(options: Mapping[str, Any]) -> list[str]:
    """Return what samples are made from, such as `cat`, `strength0.5` or `scan`, `inpaint_mask`,
    `jumps10`; empty if they are made from nothing."""
    get = options.get
    if not get("from_image"):
        return []
    parts = {
        Path(get("from_image", "")).stem: True,
        f"strength{get('strength')}": get("strength") is not None,
        f"inpaint_{Path(get('inpaint') or '').stem}": get("inpaint") is not None,
        f"x{get('upscale')}": get("upscale", 1) > 1,
        f"slices{get('slices')}": get("slices", 1) > 1,
        f"jumps{get('jumps')}": get("jumps", 0) > 0,
        f"posterior{get('posterior')}": get("posterior", 0) > 0,
        f"noise{get('known_noise', 0):g}": get("known_noise", 0) > 0,
        f"versions{get('versions')}": get("versions", 1) > 1,
    }
    return [part for part, said in parts.items() if said]


def rule_of(guidance: Mapping[str, Any]) -> str | None:
    """The name of a guidance, such as `interval`; None for classifier-free guidance and none."""
    name = guidance["_target_"].rpartition(".")[2]
    return None if name == "ClassifierFree" else name.lower()


def _name(generation: Generation, options: Draw) -> str:
    """File name from the options that differ most often, such as `ddim50_w2_seed1_64`."""
    solver = options.solver["_target_"].rpartition(".")[2]
    scale = options.guidance.get("scale", 0)
    rule = rule_of(options.guidance)
    guided = (f"_w{scale:g}" if scale else "") + (f"_{rule}" if rule else "")
    seeded = f"_seed{options.seed}" if options.seed else ""
    averaged = "" if isinstance(options.weights, str) else f"_ema{options.weights:g}"
    steps = len(generation.plan)
    return f"{solver}{steps}{guided}{averaged}{seeded}_{options.num_samples}"


def sampled(
    generation: Generation, num_samples: int, batch_size: int, y: Tensor | None, first: int = 0
) -> Iterator[Tensor]:
    """Yield the batches of `generation`, with a progress bar over all solver steps."""
    done = 0
    with progress("sampling", num_samples * len(generation.plan)) as meter:

        def on_step(samples: int) -> None:
            nonlocal done
            done += samples
            meter(done)

        yield from generation.batches(num_samples, batch_size, y, on_step, first)


def _numbers(batches: Iterable[Tensor]) -> Iterator[np.ndarray]:
    for batch in batches:
        with phase("transfer"):
            numbers = batch.cpu().numpy()
        yield numbers


def stream(batches: Iterable[np.ndarray], path: Path, shape: tuple[int, ...]) -> None:
    """Write batches of samples, `shape` all together, to a .npy, holding one batch in memory."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
        _reserve(part)
        row = 0
        for batch in batches:
            with phase("writing"):
                array[row : row + len(batch)] = batch
            row += len(batch)
        array.flush()
        del array
        os.replace(part, path)
    except OSError as error:
        raise DdiffError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _reserve(path: Path) -> None:
    """Reserve the file's disk space now.

    A full disk then shows before the work, and as an error instead of a killed process.
    """
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _asked_pictures(request: Request, out: Path) -> None:
    """Write the pictures that were asked for, each kind as <out>_<name>.png."""
    from ddiff.pages.view import picture, save_png

    layout, y = request.generation.layout, request.y
    for name in layout.pictures if y is not None else ():
        assert y is not None
        asked = layout.part(y, name)
        asked = asked[: PICTURED[asked.ndim]].nan_to_num(nan=-1.0)
        path = out.with_name(f"{out.name}_{name}.png")
        save_png(picture(asked.numpy(), None), path)
        console.print(f"asked       {path}")


def _pictures(samples: np.ndarray, out: Path, mesh: str | None, columns: int | None) -> None:
    from ddiff.pages.view import WRITERS, isosurface, picture, save_png

    png = out.with_name(out.name + ".png")
    save_png(picture(samples, columns), png)
    console.print(f"picture     {png}")
    if samples.ndim == 5 and mesh in WRITERS:
        for i, volume in enumerate(samples[:, 0]):
            WRITERS[mesh](out.with_name(f"{out.name}_{i:04d}.{mesh}"), *isosurface(volume))
        console.print(f"meshes      {out}_0000.{mesh} ...")
    npy = out.with_name(out.name + ".npy")
    console.print(f"look        python -m ddiff.view path={npy}")
