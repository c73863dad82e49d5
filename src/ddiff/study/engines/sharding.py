"""Samples drawn by the jobs of an engine: shards, joined to the file that one process would write.

A shard is a range of batches, so that every sample is drawn in the same batch, with the same noise
and the same label, as in one process.
"""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from ddiff.build import build
from ddiff.config.options import Draw, Evaluate, Sample
from ddiff.config.words import group_words, written
from ddiff.sampling.given import NEEDS_IMAGE
from ddiff.sampling.writing import Drawing, Request, origin_of, stream, write_record
from ddiff.study.engines.base import Ended, Engine, Job, run_all
from ddiff.study.engines.children import last_line
from ddiff.system.console import progress
from ddiff.system.errors import DdiffError
from ddiff.system.files import lock, read_json

GROUPS = ("solver", "guidance", "precision", "backend")
OPTIONS = ("shape", "batch_size", "y", "seed", "clamp", "weights", "accelerator", "threads")
PER_SLOT, LEAST = 4, 8  # a slot gets up to 4 shards, of 8 batches or more: little is lost with one


@dataclass(frozen=True)
class Shard:
    """Samples `first` to `end - 1`, in files of a folder."""

    folder: Path
    first: int
    number: int

    @property
    def end(self) -> int:
        return self.first + self.number

    @property
    def npy(self) -> Path:
        return self.folder / f"{self.first}.npy"

    def __str__(self) -> str:
        return f"samples {self.first} to {self.end - 1}"


def shards(engine: DictConfig) -> Drawing:
    """The function that draws samples by the jobs of this engine."""
    return partial(draw_shards, build(engine))


def draw_shards(engine: Engine, request: Request) -> dict[str, Any]:
    """Do what `ddiff.sampling.writing.draw` does, by jobs. Shards that are there already, from a
    command that was interrupted, are not drawn again."""
    options, npy, number, period = request.options, request.npy, request.number, request.period
    folder = npy.with_name(f".{npy.stem}.shards")
    given = request.generation.given
    origin = origin_of(request.trained, options, given) | {"y_period": period}
    wanted = _facts(json.loads(json.dumps(origin)))
    claim = lock(folder, "the folder of shards")
    try:
        whole = Shard(folder, request.first, number)
        there = _there(whole, options.batch_size, wanted)
        left = _left(engine, there, whole, options.batch_size)
        jobs = {_job(shard, options, period): shard for shard in left}
        done = sum(shard.number for shard in there)
        with (
            progress("sampling", number) as meter,
            closing(run_all(engine, list(jobs))) as all_ended,
        ):
            meter(done)
            for ended in all_ended:
                _check(ended)
                done += jobs[ended.job].number
                meter(done)
        there = _there(whole, options.batch_size, wanted)
        if sum(shard.number for shard in there) != number:
            raise DdiffError("the run has changed since the first samples were drawn")
        stream(_batches(there, options.batch_size), npy, request.shape)
        made = write_record(request, _drawn(there, number))
        shutil.rmtree(folder)
    finally:
        claim.release()
    return made


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a record that is the same for a shard and for all samples."""
    own = {name: value for name, value in record["options"].items() if name != "num_samples"}
    return {name: record[name] for name in ("net", "step", "spent", "y_period")} | {"options": own}


def _there(whole: Shard, batch_size: int, wanted: dict[str, Any]) -> list[Shard]:
    """The shards that are finished, in order. Those of other samples, or of batches that begin
    elsewhere, are removed."""
    found = []
    for path in whole.folder.glob("*.json"):  # written after the .npy
        record = read_json(path)
        if record and _facts(record) == wanted:
            shard = Shard(whole.folder, record["first"], record["options"]["num_samples"])
            fits = (shard.first - whole.first) % batch_size == 0
            if fits and whole.first <= shard.first and shard.end <= whole.end:
                found.append(shard)
                continue
        path.unlink()
    return sorted(found, key=lambda shard: shard.first)


def _left(engine: Engine, there: list[Shard], whole: Shard, batch_size: int) -> list[Shard]:
    """Shards of what is not there yet, for the slots of the engine."""
    taken = {at for shard in there for at in range(shard.first, shard.end, batch_size)}
    starts = [at for at in range(whole.first, whole.end, batch_size) if at not in taken]
    if not starts:
        return []
    per_slot = min(PER_SLOT, max(1, len(starts) // (LEAST * engine.slots)))
    longest = math.ceil(len(starts) / (engine.slots * per_slot))
    ranges = [[starts[0]]]
    for before, at in pairwise(starts):
        if at == before + batch_size and len(ranges[-1]) < longest:
            ranges[-1].append(at)
        else:
            ranges.append([at])
    return [
        Shard(whole.folder, one[0], min(one[-1] + batch_size, whole.end) - one[0]) for one in ranges
    ]


def _job(shard: Shard, options: Draw, period: int) -> Job:
    """The command that draws the shard: `sample`, with the options as they came out here."""
    assert isinstance(options, Sample | Evaluate)
    assert options.run
    words = ["ddiff.sample", f"run={written(options.run)}"]
    words += [f"{name}={written(getattr(options, name))}" for name in OPTIONS]
    for group in GROUPS:
        if getattr(options, group):
            words += group_words(group, getattr(options, group))
    if options.from_image:
        names = ("from_image", *NEEDS_IMAGE)
        words += [f"{name}={written(getattr(options, name))}" for name in names]
    words += [f"first={shard.first}", f"num_samples={shard.number}", f"y_period={period}"]
    words += [f"out={written(str(shard.npy))}", "overwrite=true", "picture=false"]
    return Job(str(shard), tuple(words), shard.folder / f"{shard.first}.log")


def _check(ended: Ended) -> None:
    """Raise DdiffError, with the reason in the log, for a shard that failed."""
    if ended.status == 0:
        return
    said = last_line(ended.job.log).removeprefix("ddiff: ")
    how = "were lost again and again" if ended.status is None else "failed"
    raise DdiffError(f"{ended.job.name} {how}: {said} ({ended.job.log})")


def _batches(there: list[Shard], batch_size: int) -> Iterator[np.ndarray]:
    for shard in there:
        samples = np.load(shard.npy, mmap_mode="r")
        for row in range(0, len(samples), batch_size):
            yield samples[row : row + batch_size]


def _drawn(there: list[Shard], number: int) -> dict[str, Any]:
    """Facts about the drawing; the seconds are those of all processes together."""
    records = [read_json(shard.npy.with_suffix(".json")) for shard in there]
    seconds = [
        record["seconds_per_sample"] * shard.number
        for record, shard in zip(records, there, strict=True)
    ]
    same = {name: records[0][name] for name in ("precision", "backend", "evaluations")}
    return same | {"seconds_per_sample": sum(seconds) / number}
