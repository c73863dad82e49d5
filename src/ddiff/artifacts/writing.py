"""A trained net into an artifact: written, opened, compared with the net, and only then named."""

import errno
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ddiff.artifacts import trust
from ddiff.artifacts.checking import check, example
from ddiff.artifacts.door import Door, Inputs, Job
from ddiff.artifacts.formats import Format
from ddiff.artifacts.loading import ArtifactNet
from ddiff.artifacts.seal import seal
from ddiff.artifacts.trained import Trained
from ddiff.build import build, build_guidance
from ddiff.config.options import Export
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import check_outputs, existing_parent, replacing
from ddiff.system.precision import Precision

EAGER = {"_target_": "ddiff.backends.Eager"}
CALIBRATED = (8, 32)  # samples, steps of their way


@dataclass(frozen=True)
class Exported:
    path: Path
    facts: dict[str, Any]
    sha256: str


def export(
    trained: Trained, options: Export, precision: str, walk: Callable[[Trained, int], None]
) -> Exported:
    """Writes the file, unless it would differ from the net.

    `walk` draws that many samples with a net, whose inputs then calibrate formats of 8 bits.
    """
    kind: Format = build(options.format)
    build_guidance(options.guidance).check(trained.cfg.net.num_classes)
    device = next(trained.net.parameters()).device
    kind.check(precision, device)
    Precision("float32").prepare()  # of the net that the file is compared with
    path = _target(trained, kind, options, precision)
    check_outputs([path], options.overwrite)
    batch = None if options.dynamic_batch else options.batch_size
    size = max(2, options.batch_size) if batch is None else batch  # torch.export takes 1 as fixed
    inputs = partial(
        example, tuple(trained.cfg.net.shape), trained.schedule.T, trained.cfg.net.num_classes,
        device,
    )  # fmt: skip
    met = partial(_met, trained, walk, size)
    job = Job(Door(trained.net, kind.plain[precision]), inputs(size), precision, batch, met)
    facts = _facts(trained, options, kind, precision, batch, device)
    with (
        _disk_errors(path),
        tempfile.TemporaryDirectory(prefix=".ddiff_export.", dir=existing_parent(path)) as folder,
    ):
        part = Path(folder) / f"model{kind.ending}"
        kind.write(job, part)
        payload = part.read_bytes()
        part.write_bytes(seal(payload, facts)[0])
        found = ArtifactNet(
            path, kind.open(part, device), DictConfig(facts["config"]), facts, device
        )
        sizes = {1, size} if batch is None else {size}
        cases = (inputs(n, first) for n in sorted(sizes) for first in range(4))
        facts["verified"] = check(found, trained.net, cases, precision)
    sealed, sha256 = seal(payload, facts)
    with replacing(path) as file:
        file.write(sealed)
    trust.remember(sha256)
    return Exported(path, facts, sha256)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Says of a full disk which file it was for: what fills it has a temporary name."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DdiffError(f"cannot write {path}: {error.strerror}") from error


def _target(trained: Trained, kind: Format, options: Export, precision: str) -> Path:
    if options.out is None:
        name = "model" + ("" if precision == "fp32" else f"_{precision}")
        name += "" if options.dynamic_batch else f"_batch{options.batch_size}"
        return trained.run_dir / "artifacts" / (name + kind.ending)
    if not options.out.endswith(kind.ending):
        raise ConfigError(
            f"out: {options.out} must end in {kind.ending}, as this format's files do"
        )
    return Path(options.out)


def _facts(
    trained: Trained,
    options: Export,
    kind: Format,
    precision: str,
    batch: int | None,
    device: torch.device,
) -> dict[str, Any]:
    plain = str(kind.plain[precision]).removeprefix("torch.")
    config = OmegaConf.to_container(trained.cfg)
    assert isinstance(config, dict)
    chosen = {
        name: OmegaConf.to_container(getattr(options, name))
        for name in ("format", "solver", "guidance")
    }
    numbers = {"_target_": "ddiff.system.precision.Precision", "dtype": plain, "tf32": False}
    names = ("x", "t") if trained.cfg.net.num_classes is None else ("x", "t", "y")
    return {
        "precision": precision,
        "batch": batch,
        "inputs": {n: [batch, *trained.cfg.net.shape] if n == "x" else [batch] for n in names},
        "device": device.type,
        "weights": options.weights,
        "net": trained.digest,
        "step": trained.step,
        "spent": trained.spent,
        "torch": torch.__version__,
        "config": {**config, **chosen, "precision": numbers, "backend": EAGER},
    }


class _Recorder(nn.Module):
    """Keeps what a net is asked."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.met: list[Inputs] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.met.append(tuple(v.clone() for v in (x, t, y) if v is not None))
        return self.net(x, t, y)


def _met(trained: Trained, walk: Callable[[Trained, int], None], size: int) -> Iterator[Inputs]:
    """Inputs that the net meets when it samples by the plan, `size` rows at a time."""
    recorder = _Recorder(trained.net)
    samples, steps = CALIBRATED
    walk(replace(trained, net=recorder), samples)
    kept = recorder.met[:: max(1, len(recorder.met) // steps)]
    columns = [torch.cat(column) for column in zip(*kept, strict=True)]
    if len(columns[0]) < size:  # rows that repeat leave the ranges as they are
        rows = torch.arange(size) % len(columns[0])
        columns = [column[rows.to(column.device)] for column in columns]
    for first in range(0, len(columns[0]) - size + 1, size):
        yield tuple(column[first : first + size] for column in columns)
