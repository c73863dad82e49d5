"""Writing of samples: numbers streamed batch by batch, pictures and meshes of the first ones."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from torch import Tensor

from ddiff.artifacts.trained import Trained
from ddiff.backends import device_of
from ddiff.build import build
from ddiff.config.options import Draw, Sample
from ddiff.profiling import Off, Profiled, bytes_of
from ddiff.sampling.generation import Generation, drawing, generation_of, labels_for, row_length
from ddiff.system.console import console, progress
from ddiff.system.errors import DdiffError
from ddiff.system.files import check_outputs, write_json
from ddiff.system.phases import phase

PICTURED = {4: 100, 5: 16}  # by dimensions of [N, C, *S]
SAMPLING = ("num_samples", "batch_size", "y", "seed", "clamp", "weights",
            "solver", "guidance", "precision", "backend")  # fmt: skip


def write_samples(trained: Trained, options: Sample) -> None:
    """Draw samples and write them with a record, a picture and, for volumes, meshes.

    The files are <out>.npy, <out>.json (how they were made, and their labels), <out>.png and
    <out>_0000.ply ... Prints where they are. Files that exist are refused unless `overwrite`.
    """
    generation = generation_of(trained, **drawing(options))
    out = Path(options.out) if options.out else default_out(trained, generation, options)
    out = out.with_suffix("") if out.suffix in (".npy", ".png") else out
    npy = out.with_name(out.name + ".npy")
    y = labels_for(options.y, options.num_samples, generation.num_classes)
    profiler, subject = build(options.profiler), _subject(generation, out)
    written = [out.with_name(out.name + ending) for ending in (".npy", ".json", ".png")]
    written += [] if isinstance(profiler, Off) else [subject.folder / "profile.json"]
    check_outputs(written, options.overwrite)
    meshes = _meshes(out)
    check_outputs(meshes, options.overwrite)
    with profiler.watching(subject):
        draw(trained, generation, options, npy)
    for mesh in meshes:  # of samples that were replaced
        mesh.unlink()
    first = np.load(npy, mmap_mode="r")
    _pictures(first[: PICTURED[first.ndim]], out, options.mesh, row_length(y))


def _meshes(out: Path) -> list[Path]:
    """Return the mesh files beside samples of this name."""
    name = re.compile(re.escape(out.name) + r"_\d{4}\.(ply|obj)")
    folder = out.parent.iterdir() if out.parent.is_dir() else ()
    return sorted(path for path in folder if name.fullmatch(path.name))


def _subject(generation: Generation, out: Path) -> Profiled:
    """Describe the sampling for a profile, which is written beside the samples."""
    folder = out.with_name(out.name + "_profile")

    def board() -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder / "tensorboard"))

    def held() -> dict[str, int]:
        return {"weights": bytes_of(generation.net)}

    return Profiled("sampling", device_of(generation.net), folder, board, held)


def draw(trained: Trained, generation: Generation, options: Draw, npy: Path) -> dict[str, Any]:
    """Stream samples to `npy`, write how they were made to the .json beside it, and return that."""
    y = labels_for(options.y, options.num_samples, generation.num_classes)
    started = time.perf_counter()
    _stream(generation, options, y, npy, (options.num_samples, *generation.shape))
    seconds = (time.perf_counter() - started) / options.num_samples
    made = {
        **origin_of(trained, options),
        "y": None if y is None else y.tolist(),
        "precision": generation.precision.dtype,
        "backend": generation.backend.name,
        "evaluations": generation.evaluations,
        "seconds_per_sample": seconds,
    }
    write_json(npy.with_suffix(".json"), made)
    console.print(f"samples     {npy}  {[options.num_samples, *generation.shape]}")
    return made


def origin_of(trained: Trained, options: Draw) -> dict[str, Any]:
    """Everything that decides the samples: the options, the net, and how long it was trained."""
    return {
        "options": {name: _plain(getattr(options, name)) for name in SAMPLING},
        "net": trained.digest,
        "step": trained.step,
        "spent": trained.spent,
    }


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def default_out(trained: Trained, generation: Generation, options: Draw) -> Path:
    return trained.run_dir / "samples" / _name(generation, options)


def _name(generation: Generation, options: Draw) -> str:
    """File name from the options that differ most often, such as `ddim50_w2_seed1_64`."""
    solver = options.solver["_target_"].rpartition(".")[2]
    scale = options.guidance.get("scale", 0)
    guided = f"_w{scale:g}" if scale else ""
    seeded = f"_seed{options.seed}" if options.seed else ""
    return f"{solver}{len(generation.plan)}{guided}{seeded}_{options.num_samples}"


def sampled(
    generation: Generation, num_samples: int, batch_size: int, y: Tensor | None
) -> Iterator[Tensor]:
    """Yield the batches of `generation`, with a progress bar over all solver steps."""
    done = 0
    with progress("sampling", num_samples * len(generation.plan)) as meter:

        def on_step(samples: int) -> None:
            nonlocal done
            done += samples
            meter(done)

        yield from generation.batches(num_samples, batch_size, y, on_step)


def _stream(
    generation: Generation, options: Draw, y: Tensor | None, path: Path, shape: tuple[int, ...]
) -> None:
    """Write all samples, holding one batch in memory."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
        _reserve(part)
        row = 0
        for batch in sampled(generation, shape[0], options.batch_size, y):
            with phase("transfer"):
                numbers = batch.cpu().numpy()
            with phase("writing"):
                array[row : row + len(batch)] = numbers
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


def _pictures(samples: np.ndarray, out: Path, mesh: str | None, columns: int | None) -> None:
    from ddiff.pages.view import isosurface, picture, save_png, write_obj, write_ply

    png = out.with_name(out.name + ".png")
    save_png(picture(samples, columns), png)
    console.print(f"picture     {png}")
    if samples.ndim == 5 and mesh in ("ply", "obj"):
        write = write_ply if mesh == "ply" else write_obj
        for i, volume in enumerate(samples[:, 0]):
            write(out.with_name(f"{out.name}_{i:04d}.{mesh}"), *isosurface(volume))
        console.print(f"meshes      {out}_0000.{mesh} ...")
    npy = out.with_name(out.name + ".npy")
    console.print(f"look        python -m ddiff.view path={npy}")
