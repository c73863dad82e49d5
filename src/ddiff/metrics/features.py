"""Features by which images and volumes are compared, from a net that is named and hashed."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddiff.artifacts.trained import load_net
from ddiff.config.trees import config_of, flat, identity
from ddiff.data.opening import Stack
from ddiff.metrics.inception_v3 import load_inception
from ddiff.metrics.moments import Moments
from ddiff.system.checkpoints import find_checkpoint, load_checkpoint, short_digest
from ddiff.system.console import progress
from ddiff.system.errors import DdiffError
from ddiff.system.files import regular, replacing
from ddiff.system.readers import BROKEN_ARRAY

KEPT = 10_000  # samples whose features are kept, for more than mean and covariance


@dataclass(frozen=True, eq=False)
class Extractor:
    """Feature extractor: x [B, C, *S] in [-1, 1] -> features [B, D], logits [B, K], on the CPU.

    The net runs on `device`. An extractor of your own needs `name`, `labels`, `at_once` and the
    call.
    """

    net: Callable[[Tensor], tuple[Tensor, Tensor]]
    name: str  # with the first digits of its hash: part of every protocol
    labels: bool  # True if the logits are of the data's own classes
    at_once: int  # samples
    device: torch.device

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.net(x.to(self.device))
        return features.float().cpu(), logits.float().cpu()


def classifier(
    shape: tuple[int, ...],
    data: Mapping[str, Any],
    device: torch.device,
    run: str | None,
    runs: str,
) -> Extractor:
    """Build the extractor from a classifier that ddiff trained.

    It is `run`, or the newest below `runs` that learned from these data. Raises DdiffError if there
    is none or it does not fit.
    """
    path = find_checkpoint(run) if run else _newest(Path(runs), data)
    if path is None:
        raise DdiffError(
            f"no classifier of these data below {runs}; train one with python -m ddiff.train "
            "experiment=classifier data=..., or say where with extractor.run="
        )
    net: Any
    net, options, _ = load_net(path)
    if not hasattr(net, "features"):
        raise DdiffError(f"{path} is no classifier: give a run of experiment=classifier")
    if tuple(options.net.shape) != shape:
        raise DdiffError(
            f"the classifier {path} reads samples of {list(options.net.shape)}, "
            f"not of {list(shape)}"
        )
    name = f"classifier of {options.data['_target_'].rpartition('.')[2]} {short_digest(net)}"
    net.to(device).eval()

    def read(x: Tensor) -> tuple[Tensor, Tensor]:
        features = net.features(x)
        return features, net.out(features)

    return Extractor(read, name, True, 1024, device)


def inception(
    shape: tuple[int, ...],
    data: Mapping[str, Any],
    device: torch.device,
    weights: str | None,
    root: str,
    download: bool,
) -> Extractor:
    """Build the extractor from the net of the FID; see `load_inception`."""
    if len(shape) != 3:
        raise DdiffError("Inception reads images, and these are volumes: extractor=classifier")
    net = load_inception(weights, root, download)
    return Extractor(net.to(device).eval(), f"{net.name} {net.digest}", False, 32, device)


def _newest(runs: Path, data: Mapping[str, Any]) -> Path | None:
    """Return the newest best.ckpt of a classifier of these data, or None."""
    wanted = identity(flat({"data": data}))
    best = sorted(runs.glob("**/checkpoints/best.ckpt"), key=lambda p: -p.stat().st_mtime)
    for path in best:
        text = path.parent.parent / "config.yaml"
        if not text.is_file() or "modules.Classifier" not in text.read_text():
            continue
        cfg = config_of(load_checkpoint(path))
        if identity(flat({"data": cfg.data})) == wanted:
            return path
    return None


@dataclass(eq=False)
class Features:
    """Features of a whole stack.

    Moments are of all samples; features and logits are kept for the first KEPT.
    """

    moments: Moments
    kept: Tensor  # [n, D] float32
    logits: Tensor  # [n, K]

    @classmethod
    def of(cls, stack: Stack, extractor: Extractor) -> "Features":
        moments = Moments()
        kept: list[Tensor] = []
        logits: list[Tensor] = []
        room = KEPT
        with progress(f"features of {stack.name}", len(stack)) as meter:
            for x, _ in stack.chunks():
                for part in x.split(extractor.at_once):
                    features, outs = extractor(part)
                    moments.update(features)
                    kept.append(features[:room])
                    logits.append(outs[:room])
                    room -= len(kept[-1])
                    meter(moments.n)
        return cls(moments, torch.cat(kept), torch.cat(logits))

    @classmethod
    def cached(cls, stack: Stack, extractor: Extractor, folder: Path | None) -> "Features":
        """Return the features from the cache in `folder`, or compute and store them.

        The key is the hash of the samples and the name of the extractor. None: no cache.
        """
        if folder is None:
            return cls.of(stack, extractor)
        key = hashlib.sha256(f"{stack.digest()} {extractor.name}".encode()).hexdigest()[:24]
        path = folder / f"features_{key}.npz"
        if path.is_file():
            return cls.load(path)
        found = cls.of(stack, extractor)
        found.save(path)
        return found

    def save(self, path: Path) -> None:
        moments = {"n": self.moments.n, "mean": self.moments.mean, "scatter": self.moments.scatter}
        with replacing(path) as file:
            np.savez(file, **moments, kept=self.kept.numpy(), logits=self.logits.numpy())

    @classmethod
    def load(cls, path: Path) -> "Features":
        """Load features, the same bits that were saved. Raises DdiffError for a broken file."""
        try:
            with open(regular(path), "rb") as opened, np.load(opened) as file:
                mean, scatter, kept, logits = (
                    torch.from_numpy(file[name]) for name in ("mean", "scatter", "kept", "logits")
                )
                return cls(Moments(int(file["n"]), mean, scatter), kept, logits)
        except (KeyError, *BROKEN_ARRAY) as error:
            raise DdiffError(
                f"cannot read {path} ({error}); delete it, and it is made anew"
            ) from error
