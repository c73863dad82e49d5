"""An artifact as a net to sample with."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ddiff.artifacts.decoding import DecoderFile, decoder_file, decoder_of
from ddiff.artifacts.formats import Format
from ddiff.artifacts.seal import unseal
from ddiff.build import build, build_net
from ddiff.config.options import Train, typed
from ddiff.config.trees import resolved
from ddiff.config.validation import validate
from ddiff.diffusion.guidance import NO_LABEL
from ddiff.interchange.tensors import read_metadata, read_tensors
from ddiff.nets.autoencoder import Decoder
from ddiff.nets.conditions import Layout
from ddiff.system.checkpoints import ARTIFACTS, short_digest
from ddiff.system.devices import device_for
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import cache_folder

DECODER = "decoder/"  # begins the names of a decoder's tensors, beside those of the net
DIGITS = 16  # of a hash, that are enough to name a file
AS_IT_IS = ("ddiff.backends.Auto", "ddiff.backends.Eager")
OF_WEIGHTS = {"config": dict, "net": str, "step": int, "spent": dict, "weights": str}
FACTS = {"config": dict, "batch": int | None, "device": str, "weights": str, "net": str,
         "step": int, "spent": dict, "precision": str}  # fmt: skip


def is_artifact(source: str | Path) -> bool:
    """Return True for the name of an artifact: `run=` takes runs, checkpoints and artifacts."""
    return str(source).endswith(ARTIFACTS)


def read(path: Path) -> tuple[dict[str, Any], DictConfig, str]:
    """The facts of an artifact, its config, validated like a stranger's, and its hash."""
    facts, sha256 = unseal(path)
    wrong = [name for name, kind in FACTS.items() if not isinstance(facts.get(name), kind)]
    if wrong:
        raise DdiffError(f"refused {path}: its facts lack {', '.join(wrong)}")
    cfg = resolved(DictConfig(facts["config"]))
    validate(cfg, bounds=False)
    return facts, cfg, sha256


def load(
    path: Path, weights: str | float, accelerator: str
) -> tuple["ArtifactNet", Train, dict[str, Any], DecoderFile | None]:
    """The net in an artifact; the run's options, with the solver, guidance and precision of the
    export; the facts; and the decoder beside it, if it was trained in latents."""
    facts, cfg, sha256 = read(path)
    kind: Format = build(cfg.format)
    if str(weights) != facts["weights"]:
        raise ConfigError(f"weights: {path} holds weights={facts['weights']}, not {weights}")
    if kind.is_program:
        require_trust(path, sha256, kind.is_program)
    made_on = facts["device"]  # which accelerator=auto means
    if kind.runs_on:  # says more of what is missing than device_for
        kind.check_place(path, kind.runs_on, device_for("auto"))
    device = device_for("cpu" if made_on == "cpu" and accelerator == "auto" else accelerator)
    kind.check_place(path, made_on, device)
    options = typed(Train, cfg)
    net = ArtifactNet(path, kind.open(path, device), options, facts, device)
    return net, options, facts, decoder_file(path, facts.get("decoder"), kind, device)


def read_safetensors(
    path: Path,
) -> tuple[nn.Module, DictConfig, dict[str, Any], Decoder | None]:
    """The net of a file that was exported with format=safetensors, its config, its facts, and its
    decoder if it was trained in latents."""
    facts = facts_of(path)
    cfg = resolved(DictConfig(facts["config"]))
    validate(cfg, bounds=False)
    net, tensors = build_net(cfg.net), read_tensors(path)
    own = {n.removeprefix(DECODER): tensors.pop(n) for n in [*tensors] if n.startswith(DECODER)}
    said, decoder = facts.get("decoder"), None
    if isinstance(said, dict):
        decoder = decoder_of(str(path), {**said, "state": own})
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        lines = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise DdiffError(f"{path} does not fit its own config: {lines}") from error
    if short_digest(net) != facts["net"]:
        raise DdiffError(f"refused {path}: its numbers are not those that were exported")
    return net.requires_grad_(False).eval(), cfg, facts, decoder


def facts_of(path: Path) -> dict[str, Any]:
    """The facts in a safetensors file of ddiff."""
    text = read_metadata(path).get("ddiff")
    if text is None:
        raise DdiffError(
            f"{path} carries no config of ddiff; train init= takes its tensors, or give the folder "
            "of diffusers that it lies in"
        )
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DdiffError(f"refused {path}: its facts are no JSON ({error})") from error
    wrong = [n for n, kind in OF_WEIGHTS.items() if not isinstance(dict(facts or {}).get(n), kind)]
    if wrong:
        raise DdiffError(f"refused {path}: its facts lack {', '.join(wrong)}")
    return facts


def remember(sha256: str) -> None:
    """Notes that the file of this hash was made here, by this user."""
    folder = cache_folder("exported")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sha256).touch()
    except OSError as error:
        raise DdiffError(f"cannot write {folder}: {error.strerror or error}") from error


def require_trust(path: Path, sha256: str, about: str) -> None:
    """Raises unless the file, a program, was exported here or is named in DDIFF_TRUST by its
    hash."""
    named = os.environ.get("DDIFF_TRUST", "").split(",")
    if any(len(n) >= DIGITS and sha256.startswith(n) for n in named):
        return
    if not (cache_folder("exported") / sha256).is_file():
        raise DdiffError(
            f"refused {path}: {about}, and it was not exported here; if you trust who made it, "
            f"set DDIFF_TRUST={sha256[:DIGITS]}"
        )


class ArtifactNet(nn.Module):
    """Calls an artifact as the net it came from; refuses what it was not made for.

    `batch`: the one number of rows it takes, None for any, or any up to `largest`.
    """

    def __init__(
        self,
        path: Path,
        run: Callable[..., Tensor],
        options: Train,
        facts: dict[str, Any],
        device: torch.device,
    ):
        super().__init__()
        self.path = path
        self.run = run
        self.shape = tuple(options.net.shape)
        net = options.net
        self.layout = Layout.of_net(net)
        self.batch: int | None = facts["batch"]
        self.largest: int | None = facts.get("largest")
        self.dtype: str = options.precision.dtype
        self.place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        size = len(x) if self.batch is None else self.batch
        if self.largest and not 0 < len(x) <= self.largest:
            rows = self.largest
            half = f", or {rows // 2} with guidance" if rows > 1 else ""
            raise ConfigError(
                f"{self.path} takes 1 to {rows} rows, and was given {len(x)}; choose "
                f"batch_size={rows} or fewer{half}, or export with a larger batch_size"
            )
        if tuple(x.shape) != (size, *self.shape):
            made = ", ".join(map(str, [self.batch or "any number", *self.shape]))
            hint = ""
            if self.batch and len(x) != self.batch:
                half = f", or {self.batch // 2} with guidance" if self.batch > 1 else ""
                hint = f"; choose batch_size={self.batch}{half}, or export with dynamic_batch=true"
            raise ConfigError(
                f"{self.path} was made for inputs of [{made}], and was given {list(x.shape)}{hint}"
            )
        inputs = [x.float().contiguous(), t.contiguous()]
        if self.layout.by_rows:
            inputs.append(self.layout.rows(y, t).contiguous())
        elif self.layout:
            inputs.append(torch.full_like(t, NO_LABEL) if y is None else y.contiguous())
        elif y is not None:
            raise ConfigError(f"a label was given to {self.path}, whose net has no classes")
        with torch.autocast(x.device.type, enabled=False):
            return self.run(*inputs)

    def check_options(self, backend: DictConfig, precision: DictConfig) -> None:
        """Raise ConfigError if a backend or another precision is asked for.

        Both were fixed when the net was exported.
        """
        if backend["_target_"] not in AS_IT_IS:
            raise ConfigError(f"backend: {self.path} runs as it was exported; leave backend out")
        if precision.dtype != self.dtype:
            raise ConfigError(
                f"precision: {self.path} holds {self.dtype}, not {precision.dtype}; leave "
                "precision out, or export another"
            )
