"""A trained net, out of a run, a checkpoint, an exported file or a folder, to sample from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ddiff.artifacts import loading
from ddiff.artifacts.decoding import DecoderFile, decoder_of
from ddiff.build import build, build_net, is_generative, module_class
from ddiff.config.options import Train, typed
from ddiff.config.trees import config_of, resolved
from ddiff.config.validation import validate
from ddiff.diffusion import Objective, Schedule
from ddiff.interchange.folders import is_foreign, read_foreign
from ddiff.interchange.tensors import SAFE
from ddiff.nets.autoencoder import Decoder
from ddiff.nets.averages import Profile, combination, combined, power_of
from ddiff.system.checkpoints import find_checkpoint, load_checkpoint, load_tensors, short_digest
from ddiff.system.console import console
from ddiff.system.devices import device_for
from ddiff.system.errors import ConfigError, DdiffError


@dataclass(frozen=True, eq=False)
class Trained:
    """The net on its device, and what its predictions mean."""

    net: nn.Module
    schedule: Schedule
    objective: Objective
    options: Train  # the run's
    run_dir: Path
    step: int
    digest: str  # of the net's numbers
    spent: dict[str, Any]  # seconds and images of the training
    data: dict[str, Any] = field(default_factory=dict)  # see `ddiff.data.Data.facts`
    decoder: Decoder | DecoderFile | None = None  # makes samples of latents, if the net draws these

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample, [C, *S]."""
        return self.decoder.shape if self.decoder else tuple(self.options.net.shape)

    @classmethod
    def load(
        cls,
        source: str,
        weights: str | float = "ema",
        accelerator: str = "auto",
        shape: list[int] | None = None,
        snapshot: int | None = None,
    ) -> "Trained":
        """The net of a source.

        - `shape`: of a sample, for folders that do not say it.
        - `snapshot`: the step of a snapshot of averages, for a younger net than the checkpoint's.
        """
        if shape is not None and not is_foreign(source):
            raise ConfigError(f"shape: {source} says the shape of its samples; leave shape out")
        data: dict[str, Any] = {}
        decoder: Decoder | DecoderFile | None = None
        if loading.is_artifact(source):
            path = Path(source)
            net, options, facts, decoder = loading.load(path, weights, accelerator)
            # its outputs go into a folder beside the artifact, of its name
            run_dir = path.with_name(path.name.replace(".", "_"))
            step, digest, spent = facts["step"], facts["net"], facts["spent"]
            data = facts.get("data", {})
        elif source.endswith(SAFE):
            path = Path(source)
            net, cfg, facts, decoder = loading.read_safetensors(path)
            if str(weights) != facts["weights"]:
                raise ConfigError(f"weights: {path} holds {facts['weights']}, not {weights}")
            net, options = net.to(device_for(accelerator)), typed(Train, cfg)
            run_dir = path.with_name(path.name.replace(".", "_"))
            step, digest, spent = facts["step"], facts["net"], facts["spent"]
            data = facts.get("data", {})
        elif is_foreign(source):
            found = read_foreign(source, shape)
            net, options = found.load(), typed(Train, found.cfg)
            run_dir, step, digest, spent = Path(source), 0, short_digest(net), {}
            net = net.to(device_for(accelerator))
        else:
            path = find_checkpoint(source)
            net, options, checkpoint = load_net(path, weights, snapshot)
            if not is_generative(options.module):
                why = module_class(options.module).instead or "makes no samples"
                raise DdiffError(f"{source} {why.format(source=source)}")
            run_dir, step, digest = run_of(path), checkpoint["global_step"], short_digest(net)
            net, spent = net.to(device_for(accelerator)), checkpoint.get("spent", {})
            data = checkpoint["ddiff"].get("data", {})
            if isinstance(data, dict) and "decoder" in data:
                decoder = decoder_of(source, data.pop("decoder"))
        if decoder:
            decoder = decoder.to(device_for(accelerator))
        schedule, objective = build(options.schedule), build(options.objective)
        return cls(net, schedule, objective, options, run_dir, step, digest, spent, data, decoder)


def load_net(
    path: Path, weights: str | float = "ema", step: int | None = None
) -> tuple[nn.Module, Train, dict[str, Any]]:
    """The net of a checkpoint, on the CPU and frozen, the run's config, and the checkpoint.

    Reads tensors and plain values only; the config in the file is validated like any.
    """
    length = None if isinstance(weights, str) else weights
    if length is None and weights not in ("ema", "net"):
        raise ConfigError(
            f"weights: {weights!r} is not one of ema (averaged), net (raw), or a length, as 0.05"
        )
    if step is not None and length is None:
        raise ConfigError("step: snapshots hold averages; give a length, as 0.05, for the weights")
    checkpoint = load_checkpoint(path)
    cfg = resolved(config_of(checkpoint))
    validate(cfg, bounds=False)
    net = build_net(cfg.net)
    prefix = "ema." if length else f"{weights}."
    state = checkpoint["state_dict"]
    own = {name[len(prefix) :]: v for name, v in state.items() if name.startswith(prefix)}
    try:
        net.load_state_dict(own)
    except RuntimeError as error:
        lines = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise DdiffError(f"{path} does not fit its own config: {lines}") from error
    if length:
        net.load_state_dict(averaged(path, checkpoint, length, step), strict=False)
    return net.requires_grad_(False).eval(), typed(Train, cfg), checkpoint


def averaged(
    path: Path, checkpoint: dict[str, Any], length: float, step: int | None = None
) -> dict[str, Tensor]:
    """The average of this length at the step of a checkpoint, or at that of an earlier snapshot,
    out of them."""
    here = checkpoint.get("callbacks", {}).get("PowerAverages")
    if not here:
        raise ConfigError(
            f"weights: {length:g} needs a training with callbacks=power_averages, and {path} is of "
            "one without; weights=ema is there"
        )
    files = sorted((run_of(path) / "averages").glob("step_*.pt"))
    others = [load_tensors(f) for f in files if int(f.stem.removeprefix("step_")) < here["step"]]
    kept = [*(other for other in others if other["since"] == here["since"]), here]
    if step is not None:
        steps = [one["step"] for one in kept]
        if step not in steps:
            raise ConfigError(f"step: {step} is none of the snapshots of {path}: {steps}")
        kept = kept[: steps.index(step) + 1]
        here = kept[-1]
    known = [
        (Profile(one["step"] - one["since"], power), values)
        for one in kept
        for power, values in zip(one["powers"], one["values"], strict=True)
    ]
    wanted = Profile(here["step"] - here["since"], power_of(length))
    factors, error = combination([profile for profile, _ in known], wanted)
    if error > 0.1:
        console.print(
            f"note        weights={length:g}: {len(kept)} snapshots give this average within "
            f"{error:.0%} only; callbacks.power_averages.every= makes more"
        )
    return combined([values for _, values in known], factors)


def run_of(checkpoint: Path) -> Path:
    """The run directory that a checkpoint lies in."""
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder
