"""Latents of a data set: what the encoder of a trained autoencoder makes of its samples."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from ddiff.artifacts.trained import load_net
from ddiff.config.options import tree_of
from ddiff.config.trees import TELLING
from ddiff.data.base import Data, FolderData
from ddiff.data.conditions import Column, Picture
from ddiff.data.source import Source, WindowSource
from ddiff.nets.autoencoder import Decoder
from ddiff.nets.conditions import Layout
from ddiff.system.checkpoints import digest, find_checkpoint, load_tensors, save_checkpoint
from ddiff.system.console import console, progress
from ddiff.system.devices import device_for
from ddiff.system.errors import ConfigError, DdiffError

AT_ONCE = 2**20  # values of samples that are encoded in one go
# options of data that do not change what their samples are
FREE = ("batch_size", "num_workers", "flip", "cache_gb", "download", *TELLING)
PARTS = ("train", "val", "mirrored", "mean", "std", "bound", "fingerprint")


@dataclass(frozen=True, eq=False)
class LatentSource:
    """Latents [N, c, *S] of a source, with its labels.

    `mirrored`: those of the mirrored samples, which `drawn` takes with probability 1/2.
    """

    latents: Tensor
    labels: Tensor | None
    mirrored: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.latents[indices], None if self.labels is None else self.labels[indices]

    def drawn(self, indices: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        x, y = self.batch(indices)
        if self.mirrored is not None:
            chosen = torch.rand(len(indices), generator=random) < 0.5
            x[chosen] = self.mirrored[indices[chosen]]
        return x, y


@dataclass(eq=False, repr=False)
class Latent(Data):
    """Latents of the data set `of` by the autoencoder of `run`, a run of experiment=autoencoder.

    A sample becomes the mean of its posterior, scaled to mean 0 and variance 1 in every channel
    over the training set. Every sample is encoded once; the numbers lie in the folder `cache`
    (None: in memory alone). Labels and conditions are those of `of`.
    """

    run: str
    of: Any  # Data, built from its options
    cache: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.of, Data) or isinstance(self.of, Latent):
            raise ConfigError(
                "data.of: is no data set; say data@data.of=digits and the like, or leave it out "
                "for that of the autoencoder"
            )
        for name in ("flip", "conditions"):
            if getattr(self, name):
                raise ConfigError(f"data.{name}: say data.of.{name}=, of what is encoded")
        autoencoder, self.node = autoencoder_of(self.run)
        if tuple(autoencoder.shape) != tuple(self.of.shape):
            raise ConfigError(
                f"data.run: the autoencoder {self.run} is for samples of "
                f"{_sides(autoencoder.shape)}, and data.of has {_sides(self.of.shape)}"
            )
        self.autoencoder, self.digest = autoencoder, digest(autoencoder)
        self.shape = tuple(autoencoder.latent_shape)
        self.num_classes, self.class_names = self.of.num_classes, self.of.class_names

    def prepare_data(self) -> None:
        self.of.prepare_data()
        self.setup("fit")

    def sources(self) -> tuple[Source, Source]:
        self.of.setup("fit")
        if isinstance(self.of.train, WindowSource):
            raise ConfigError(
                "data.of.fit=random_crop: latents are encoded once; say data.of.fit=pad_crop"
            )
        found = self._encoded()
        mean, std, bound = found["mean"], found["std"], float(found["bound"])
        decoder = Decoder(self.autoencoder, self.node, mean, std, bound)
        self.decoder = decoder.requires_grad_(False).eval()
        labels = found.get("train_labels"), found.get("val_labels")
        return (
            LatentSource(found["train"], labels[0], found["mirrored"]),
            LatentSource(found["val"], labels[1]),
        )

    def _encoded(self) -> dict[str, Any]:
        """Return latents, labels and their units, out of the cache if they are there."""
        if self.cache is None:
            return self._encode("")
        fingerprint = self.fingerprint()
        path = Path(self.cache).expanduser() / f"latents_{fingerprint[:24]}.pt"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # of several processes, one encodes
                if path.is_file():
                    return read(path, fingerprint)
                found = self._encode(fingerprint)
                save_checkpoint(found, path)
        except OSError as error:
            raise DdiffError(f"data.cache: cannot write {path}: {error.strerror}") from error
        console.print(f"latents     {path}  {len(found['train'])} of {_sides(self.shape)}")
        return found

    def fingerprint(self) -> str:
        """Hash of all that decides the latents: weights, the options of `of`, its files."""
        options = {
            field.name: getattr(self.of, field.name)
            for field in fields(self.of)
            if field.init and field.name not in FREE
        }
        files = []
        if isinstance(self.of, FolderData):
            states = [(str(file), file.stat()) for file in self.of.files]
            files = [(name, state.st_size, state.st_mtime_ns) for name, state in states]
        said = [type(self.of).__name__, options, self.of.flip, files, self.digest]
        return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()

    def _encode(self, fingerprint: str) -> dict[str, Any]:
        device = device_for("auto")
        encoder = Decoder(self.autoencoder, self.node).requires_grad_(False).eval().to(device)
        sets = {"train": self.of.train, "val": self.of.val}
        total = sum(map(len, sets.values())) + (len(self.of.train) if self.of.flip else 0)
        at_once = max(1, AT_ONCE // math.prod(self.of.shape))
        found: dict[str, Any] = {"mirrored": None, "fingerprint": fingerprint}
        done = 0
        with progress("encoding", total) as meter:
            for name, source in sets.items():
                latents: dict[str, list[Tensor]] = {"as it is": [], "mirrored": []}
                labels: list[Tensor] = []
                mirrors = [False, True] if name == "train" and self.of.flip else [False]
                for rows in torch.arange(len(source)).split(at_once):
                    x, y = source.batch(rows)
                    labels += [] if y is None else [y]
                    for mirror in mirrors:
                        given = x.flip(-1) if mirror else x
                        made = encoder.encoded(given.to(device)).float().cpu().contiguous()
                        latents["mirrored" if mirror else "as it is"].append(made)
                        done += len(x)
                        meter(done)
                found[name] = torch.cat([torch.empty(0, *self.shape), *latents["as it is"]])
                found[f"{name}_labels"] = torch.cat(labels) if labels else None
                if latents["mirrored"]:
                    found["mirrored"] = torch.cat(latents["mirrored"])
        return in_units(found, self.run)

    @property
    def original(self) -> Data:
        return self.of

    @property
    def classes_told(self) -> int | None:
        return self.of.classes_told

    def offered(self) -> list[str]:
        return self.of.offered()

    def names_told(self) -> list[str]:
        return self.of.names_told()

    def told(self, name: str, source: Source) -> Column | Picture:
        return self.of.told(name, self.of.train if source is self.train else self.of.val)

    def measured(self, name: str, x: Tensor) -> Tensor | None:
        return self.of.measured(name, x)

    def class_in(self, text: str) -> int | None:
        return self.of.class_in(text)

    @cached_property
    def layout(self) -> Layout:
        found = self.of.layout
        if found.pictures:
            raise ConfigError(
                f"data.of.conditions: {next(iter(found.pictures))} is a picture as large as a "
                "sample, which nets in latents cannot be told; classes, numbers, texts and vectors "
                "they can"
            )
        return replace(found, shape=tuple(self.shape))

    def examples(self, number: int) -> Tensor | None:
        return self.of.examples(number)

    def facts(self) -> dict[str, Any]:
        """Return the facts of `of`, and the decoder, as `ddiff.artifacts.decoding` reads it."""
        assert self.decoder is not None
        decoder = {**self.decoder.facts(), "state": self.decoder.state_dict()}
        return {**self.of.facts(), "decoder": decoder}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "autoencoder": self.digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("autoencoder") != self.digest:
            raise DdiffError(
                f"data.run: the autoencoder {self.run} has other weights than when this training "
                "began, so its latents are others; give the folder where those weights are"
            )
        super().load_state_dict(state_dict)


def autoencoder_of(run: str) -> tuple[Any, dict[str, Any]]:
    """Load the averaged net of an autoencoder's run, and its options.

    Raises ConfigError for a run of something else.
    """
    try:
        net, options, _ = load_net(find_checkpoint(run))
    except DdiffError as error:
        raise type(error)(
            f"data.run: {error}; python -m ddiff.train experiment=autoencoder trains one"
        ) from error
    if not hasattr(net, "encode"):
        raise ConfigError(
            f"data.run: {run} is no autoencoder; python -m ddiff.train experiment=autoencoder "
            "trains one"
        )
    return net, tree_of(options)["net"]


def in_units(found: dict[str, Any], run: str) -> dict[str, Any]:
    """Scale latents to mean 0 and variance 1 in every channel over the training set."""
    channels = found["train"].transpose(0, 1).flatten(1).double()
    mean, std = channels.mean(1), channels.std(1, correction=0)
    if not bool((std > 1e-6).all()):  # "not >" also finds what is not a number
        dead = int((~(std > 1e-6)).nonzero()[0])
        raise DdiffError(
            f"data.run: channel {dead} of the latents of {run} is the same for every sample; "
            "train it with fewer net.latent_channels or a smaller module.rate_weight"
        )
    wide = (slice(None),) + (None,) * (found["train"].ndim - 2)
    mean, std = mean.float(), std.float()
    for name in ("train", "val", "mirrored"):
        if found[name] is not None:
            found[name] = found[name].sub_(mean[wide]).div_(std[wide])
    return {**found, "mean": mean, "std": std, "bound": float(found["train"].abs().max())}


def read(path: Path, fingerprint: str) -> dict[str, Any]:
    """Read latents from a file. Raises DdiffError for one that is broken or of something else."""
    try:
        found = load_tensors(path)
    except DdiffError as error:
        raise DdiffError(f"data.cache: {error}; delete it, and it is made anew") from error
    right = isinstance(found, Mapping) and set(PARTS) <= found.keys()
    if not right or found["fingerprint"] != fingerprint:
        raise DdiffError(
            f"data.cache: {path} holds no latents of these data; delete it, and it is made anew"
        )
    return dict(found)


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
