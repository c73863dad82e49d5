"""A trained net into an artifact: written, opened, compared with the net, and only then named."""

import errno
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ddiff.artifacts.decoding import beside_of
from ddiff.artifacts.formats import (
    NAMES,
    DecoderWrapper,
    ExportWrapper,
    Format,
    Inputs,
    Job,
)
from ddiff.artifacts.loading import ArtifactNet, remember
from ddiff.artifacts.seal import seal
from ddiff.artifacts.trained import Trained
from ddiff.artifacts.weights import Weights
from ddiff.build import build, build_guidance
from ddiff.config.options import Export, Train, tree_of, typed
from ddiff.diffusion.guidance import NO_LABEL
from ddiff.nets.autoencoder import Decoder
from ddiff.nets.conditions import CLASS, TEXT, VECTOR, Layout
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import check_outputs, existing_parent, replacing
from ddiff.system.precision import Precision

EAGER = {"_target_": "ddiff.backends.Eager"}
CALIBRATED = (8, 32)  # samples, steps of their way
# dB, of the range of the net's predictions: an artifact below it is refused
LEAST_PSNR = {"fp32": 100.0, "fp16": 45.0, "bf16": 30.0, "int8": 25.0, "fp8": 25.0}
BEST_PSNR = 200.0  # said where nothing differs
ABOUT = "noise at t = 1, T / 4, T / 2 and T"


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
    kind: Format | Weights = build(options.format)
    guidance = build_guidance(options.guidance)
    net = trained.options.net
    layout = Layout.of_net(net)
    guidance.check(bool(layout))
    if not guidance.alone:
        raise ConfigError("guidance=auto: a file holds one net, and this guides by another one")
    if trained.decoder and not kind.decodes:
        name = type(kind).__name__.lower()
        raise ConfigError(
            f"format={name}: this net draws latents, and such a file has no place for their "
            "decoder; format=safetensors, pt2 and onnx have"
        )
    if isinstance(kind, Weights):
        return export_weights(trained, options, kind, precision, layout)
    device = next(trained.net.parameters()).device
    kind.check(precision, device)
    Precision("float32").prepare()  # of the net that the file is compared with
    path = _target(trained, kind, options, precision)
    beside = [beside_of(path, kind)] if trained.decoder else []
    check_outputs([path, *beside], options.overwrite)
    batch = None if options.dynamic_batch else options.batch_size
    size = max(2, options.batch_size) if batch is None else batch  # torch.export takes 1 as fixed
    inputs = partial(example, layout, trained.schedule.T, device)
    met = partial(_met, trained, walk, size)
    net = ExportWrapper(trained.net, kind.plain[precision])
    job = Job(net, inputs(size), precision, batch, met)
    facts = _facts(trained, options, job, kind.runs_on or device.type, layout)
    with (
        _disk_errors(path),
        tempfile.TemporaryDirectory(prefix=".ddiff_export.", dir=existing_parent(path)) as folder,
    ):
        part = Path(folder) / f"model{kind.ending}"
        facts |= kind.write(job, part)
        payload = part.read_bytes()
        part.write_bytes(seal(payload, facts)[0])
        run, what = kind.compared(part, device)
        found = ArtifactNet(path, run, typed(Train, DictConfig(facts["config"])), facts, device)
        sizes = {1, size} if batch is None else {size}
        cases = (inputs(n, first) for n in sorted(sizes) for first in range(4))
        facts["verified"] = {"of": what, **check(found, trained.net, cases, precision)}
        decoder = _decoder(trained, kind, batch, size, Path(folder)) if beside else None
    if decoder:
        facts["decoder"] = {"file": beside[0].name, "sha256": decoder[1], **decoder[2]}
        with replacing(beside[0]) as file:
            file.write(decoder[0])
        remember(decoder[1])
    sealed, sha256 = seal(payload, facts)
    with replacing(path) as file:
        file.write(sealed)
    remember(sha256)
    return Exported(path, facts, sha256)


def _decoder(
    trained: Trained, kind: Format, batch: int | None, size: int, folder: Path
) -> tuple[bytes, str, dict[str, Any]]:
    """Return the file of a decoder in float32, its hash and its facts; raises DdiffError where it
    differs from the decoder."""
    decoder = trained.decoder
    assert isinstance(decoder, Decoder)
    device = next(trained.net.parameters()).device
    shape = decoder.autoencoder.latent_shape

    def inputs(n: int) -> Inputs:
        g = torch.Generator().manual_seed(n)
        return (torch.randn(n, *shape, generator=g).to(device),)

    wrapper: Any = DecoderWrapper(decoder, torch.float32)
    job = Job(wrapper, inputs(size), "fp32", batch, lambda: iter(()))
    part = folder / f"decoder{kind.ending}"
    kind.write(job, part)
    payload = part.read_bytes()
    facts = {"batch": batch, "bound": decoder.bound, "shape": list(decoder.shape)}
    part.write_bytes(seal(payload, facts)[0])
    run, _ = kind.compared(part, device)
    sizes = {1, size} if batch is None else {size}
    verified = check(run, decoder, map(inputs, sorted(sizes)), "fp32")
    verified["inputs"] = "latents of the standard normal law"
    facts["verified"] = verified
    return *seal(payload, facts), facts


def export_weights(
    trained: Trained, options: Export, kind: Weights, precision: str, layout: Layout
) -> Exported:
    """Writes the net's tensors by name, unless what is read back would differ from the net."""
    kind.check(precision)
    kind.check_net(trained, options)
    Precision("float32").prepare()
    path = Path(options.out or trained.run_dir / "artifacts" / f"{kind.default}{kind.ending}")
    if not path.name.endswith(kind.ending):
        raise ConfigError(f"out: {path} must end in {kind.ending}, as this format's files do")
    kind.check_target(path, options.overwrite)
    device = next(trained.net.parameters()).device
    inputs = partial(example, layout, trained.schedule.T, device)
    facts = _weight_facts(trained, options)
    with _disk_errors(path), kind.place(path) as part:
        kind.write(trained, options, facts, part)
        cases = (inputs(4, first) for first in range(4))
        read = check(kind.read(part).to(device), trained.net, cases, precision)
        facts["verified"] = {"of": "the weights as they are read back", **read}
        kind.describe(trained, options, facts["verified"], part)
        sha256 = kind.sha256(part)
    return Exported(path, facts, sha256)


def _weight_facts(trained: Trained, options: Export) -> dict[str, Any]:
    config = tree_of(trained.options)
    for name in ("solver", "guidance"):
        config[name] = OmegaConf.to_container(getattr(options, name))
    return {
        "config": config,
        "weights": str(options.weights),
        "net": trained.digest,
        "step": trained.step,
        "spent": trained.spent,
        **({"data": trained.data} if trained.data else {}),
    }


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
    trained: Trained, options: Export, job: Job, runs_on: str, layout: Layout
) -> dict[str, Any]:
    config = tree_of(trained.options)
    for name in ("format", "solver", "guidance"):
        config[name] = OmegaConf.to_container(getattr(options, name))
    plain = str(job.net.dtype).removeprefix("torch.")
    numbers = {"_target_": "ddiff.system.precision.Precision", "dtype": plain, "tf32": False}
    sizes = [[job.batch, *value.shape[1:]] for value in job.example]
    return {
        "precision": job.precision,
        "batch": job.batch,
        "inputs": dict(zip(NAMES, sizes, strict=False)),
        **({"row": layout.parts} if layout.by_rows else {}),
        "device": runs_on,
        "weights": str(options.weights),
        "net": trained.digest,
        "step": trained.step,
        "spent": trained.spent,
        **({"data": trained.data} if trained.data else {}),
        "torch": torch.__version__,
        "config": {**config, "precision": numbers, "backend": EAGER},
    }


def _met(trained: Trained, walk: Callable[[Trained, int], None], size: int) -> Iterator[Inputs]:
    """Inputs that the net meets when it samples by the plan, `size` rows at a time."""
    met: list[Inputs] = []

    def keep(_: nn.Module, inputs: tuple[Tensor | None, ...]) -> None:
        met.append(tuple(value.clone() for value in inputs if value is not None))

    samples, steps = CALIBRATED
    hook = trained.net.register_forward_pre_hook(keep)
    try:
        walk(trained, samples)
    finally:
        hook.remove()
    kept = met[:: max(1, len(met) // steps)]
    columns = [torch.cat(column) for column in zip(*kept, strict=True)]
    if len(columns[0]) < size:  # rows that repeat leave the ranges as they are
        rows = torch.arange(size) % len(columns[0])
        columns = [column[rows.to(column.device)] for column in columns]
    for first in range(0, len(columns[0]) - size + 1, size):
        yield tuple(column[first : first + size] for column in columns)


def example(
    layout: Layout,
    T: int,
    device: torch.device,
    size: int,
    first: int = 0,
) -> Inputs:
    """Noise; from row to row another time, and another label: none, the first, the last.

    Rows of conditions: nothing, and all parts with the least and the largest values.
    """
    g = torch.Generator().manual_seed(first)
    x = torch.randn(size, *layout.shape, generator=g).to(device)
    row = torch.arange(first, first + size, device=device)
    t = torch.tensor([1, T, (T + 1) // 2, (T + 3) // 4], device=device)[row % 4] - 1
    if not layout:
        return x, t
    if layout.by_rows:
        return x, t, torch.stack(_extremes(layout)).to(device)[row % 3]
    assert layout.num_classes
    return x, t, torch.tensor([NO_LABEL, 0, layout.num_classes - 1], device=device)[row % 3]


def _extremes(layout: Layout) -> list[Tensor]:
    """Rows [K] of nothing, of the least values, and of the largest."""
    rows = [torch.full((layout.width,), math.nan) for _ in range(3)]
    for name, place in layout.places.items():
        ends = (-1.0, 1.0)  # of pictures
        if name == CLASS:
            ends = (0.0, float(layout.num_classes or 1) - 1)
        elif name == TEXT:
            ends = (ord("a"), ord("z"))
        elif name == VECTOR:
            assert layout.vector
            ends = (-layout.vector.rms, layout.vector.rms)
        elif name in layout.numbers:
            ends = (layout.numbers[name].low, layout.numbers[name].high)
        for row, end in zip(rows[1:], ends, strict=True):
            row[place] = end
    return rows


@torch.no_grad()
def check(
    run: Callable[..., Tensor], net: nn.Module, cases: Iterable[Inputs], precision: str
) -> dict[str, Any]:
    """Compare `run` with the float32 net; raises DdiffError if it is not close enough.

    Returns the PSNR, the largest error and how they were measured.
    """
    pairs = [(run(*inputs).double(), net(*inputs).double()) for inputs in cases]
    found = torch.cat([a.flatten() for a, _ in pairs])
    wanted = torch.cat([b.flatten() for _, b in pairs])
    error = (found - wanted).abs()
    rms, span = float(error.square().mean().sqrt()), float(wanted.max() - wanted.min())
    psnr = BEST_PSNR if rms == 0 else 20 * math.log10(max(span, 1e-12) / rms)
    if not psnr >= LEAST_PSNR[precision]:  # "not >=" also rejects NaN
        raise DdiffError(
            f"the artifact is not the net: PSNR {psnr:.1f} dB and largest error "
            f"{float(error.max()):.3g} in {precision}, where {LEAST_PSNR[precision]:g} dB is the "
            "least; nothing was written"
        )
    return {
        "psnr": min(psnr, BEST_PSNR),
        "max_error": float(error.max()),
        "least_psnr": LEAST_PSNR[precision],
        "inputs": ABOUT,
        "batches": sorted({len(found) for found, _ in pairs}),
    }
