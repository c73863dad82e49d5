"""Formats that hold a net's tensors by name and no program: safetensors, and a diffusers folder."""

import hashlib
import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from ddiff.artifacts.card import card
from ddiff.artifacts.loading import DECODER, read_safetensors
from ddiff.artifacts.trained import Trained
from ddiff.config.options import Export
from ddiff.interchange.diffusers import (
    CONFIG,
    INDEX,
    SCHEDULER,
    WEIGHTS,
    is_diffusers,
    read_diffusers,
    scheduler_config,
    unet_config,
)
from ddiff.interchange.names import DIFFUSERS, names_in, to_theirs
from ddiff.interchange.tensors import SAFE, write_tensors
from ddiff.nets.autoencoder import Decoder
from ddiff.system.errors import ConfigError
from ddiff.system.files import (
    check_outputs,
    existing_parent,
    read_json,
    replacing,
    write_json,
)


class Weights(ABC):
    """A format whose files or folders hold float32 tensors by name."""

    ending: ClassVar[str]
    default: ClassVar[str]  # the name, without the ending
    decodes: ClassVar[bool] = False  # whether it holds the decoder of a net in latents, too

    def check(self, precision: str) -> None:
        if precision != "fp32":
            name = type(self).__name__.lower()
            raise ConfigError(f"precision: format={name} holds float32, not {precision}")

    def check_target(self, path: Path, overwrite: bool) -> None:
        """Raise before the work for what cannot be written, or would replace something."""
        check_outputs([path], overwrite)

    @abstractmethod
    def check_net(self, trained: Trained, options: Export) -> None:
        """Raise ConfigError for a net that the format cannot express."""

    @abstractmethod
    def write(self, trained: Trained, options: Export, facts: dict[str, Any], path: Path) -> None:
        """Write the net."""

    def describe(  # noqa: B027 (no other format adds anything)
        self, trained: Trained, options: Export, verified: dict[str, Any], path: Path
    ) -> None:
        """No-op: only a folder has a page about it."""

    @abstractmethod
    def read(self, path: Path) -> nn.Module:
        """The net in what `write` wrote."""

    def sha256(self, path: Path) -> str:
        """The hash of the file of tensors."""
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @contextmanager
    def place(self, path: Path) -> Iterator[Path]:
        """A place beside `path` that takes its name when the block ends well."""
        with tempfile.TemporaryDirectory(
            prefix=".ddiff_export.", dir=existing_parent(path)
        ) as folder:
            part = Path(folder) / path.name
            yield part
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                path.rename(Path(folder) / "before")  # goes with the temporary folder
            part.replace(path)


class Safetensors(Weights):
    """One file: the tensors under ddiff's names, the config and facts in its metadata."""

    ending, default, decodes = SAFE, "model", True

    def check_net(self, trained: Trained, options: Export) -> None:
        """No-op: every net has named tensors."""

    def write(self, trained: Trained, options: Export, facts: dict[str, Any], path: Path) -> None:
        tensors = trained.net.state_dict()
        if trained.decoder:
            assert isinstance(trained.decoder, Decoder)
            own = trained.decoder.state_dict()
            tensors = {**tensors, **{f"{DECODER}{name}": value for name, value in own.items()}}
            facts = {**facts, "decoder": trained.decoder.facts()}
        write_tensors(tensors, path, {"ddiff": json.dumps(facts)})

    def read(self, path: Path) -> nn.Module:
        return read_safetensors(path)[0]


class Diffusers(Weights):
    """A folder that diffusers' DDPMPipeline and DDIMPipeline read."""

    ending, default = "", "diffusers"

    def check_target(self, path: Path, overwrite: bool) -> None:
        """An empty folder is taken; another is replaced if it is one of diffusers, and asked to."""
        if path.is_dir() and not any(path.iterdir()):
            return
        if path.is_dir() and not is_diffusers(path):
            raise ConfigError(f"out: {path} is a folder of something else; give another out=")
        if path.exists() and not overwrite:
            raise ConfigError(
                f"{path} exists already; give another out=, or overwrite=true to replace it"
            )
        check_outputs([path / INDEX], overwrite=True)

    def check_net(self, trained: Trained, options: Export) -> None:
        unet_config(trained.net, trained.options.net)
        self._scheduler(trained, options)

    def _scheduler(self, trained: Trained, options: Export) -> dict[str, Any]:
        clamp = trained.options.sampling.clamp
        return scheduler_config(trained.schedule, trained.objective, options.solver, clamp)

    def write(self, trained: Trained, options: Export, facts: dict[str, Any], path: Path) -> None:
        node = trained.options.net
        scheduler = self._scheduler(trained, options)
        kind = scheduler["_class_name"]
        pipeline = kind.replace("Scheduler", "Pipeline")
        state = trained.net.state_dict()
        names = names_in(DIFFUSERS, state, len(node.channels), node.get("num_blocks", 2))
        config = unet_config(trained.net, node)
        write_json(path / "unet" / CONFIG, config)
        write_json(path / "scheduler" / SCHEDULER, scheduler)
        index = {
            "_class_name": pipeline,
            "_diffusers_version": config["_diffusers_version"],
            "scheduler": ["diffusers", kind],
            "unet": ["diffusers", "UNet2DModel"],
        }
        write_json(path / INDEX, index)
        write_tensors(to_theirs(state, names), path / "unet" / f"{WEIGHTS}{SAFE}", {})

    def describe(
        self, trained: Trained, options: Export, verified: dict[str, Any], path: Path
    ) -> None:
        pipeline = read_json(path / INDEX)["_class_name"]
        about = f"predictions differ by at most {verified['max_error']:.2g} ({verified['inputs']})"
        with replacing(path / "README.md", "w") as file:
            file.write(card(trained, options, pipeline, about, path.name))

    def read(self, path: Path) -> nn.Module:
        return read_diffusers(path).load()

    def sha256(self, path: Path) -> str:
        return super().sha256(path / "unet" / f"{WEIGHTS}{SAFE}")
