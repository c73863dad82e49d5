"""Weights to begin a training from: of a run, an exported file, a folder, or a file of tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from ddiff.artifacts.loading import is_artifact, read_safetensors
from ddiff.artifacts.trained import load_net
from ddiff.interchange.diffusers import says_size
from ddiff.interchange.folders import is_foreign, read_foreign
from ddiff.interchange.names import DIFFUSERS, MONAI, names_in, with_current_names
from ddiff.interchange.tensors import PICKLED, SAFE, read_metadata, read_tensors
from ddiff.system.checkpoints import find_checkpoint
from ddiff.system.errors import DdiffError

LIBRARIES = {"conv_in.weight": DIFFUSERS, "conv_in.conv.weight": MONAI}  # by a name each has


@dataclass(frozen=True)
class Source:
    """Tensors, and the config that they were trained with, if their file says it.

    Tensors without a config may have the names of another library.
    """

    path: str
    tensors: Mapping[str, Tensor]
    cfg: DictConfig | None

    @classmethod
    def at(cls, source: str, shape: list[int] | None = None) -> "Source":
        """The weights in `source`, averaged where there is a choice. Raises DdiffError.

        - `shape`: [C or 0, *S] of a sample, for folders that do not say it.
        """
        path = Path(source)
        if is_artifact(source):
            raise DdiffError(
                f"init: {source} is an exported file, whose weights do not have the net's names; "
                "give the run that it was exported from, or export that with format=safetensors"
            )
        if path.suffix == SAFE and "ddiff" in read_metadata(path):
            net, cfg, *_ = read_safetensors(path)
            return cls(source, net.state_dict(), cfg)
        if path.suffix in (SAFE, *PICKLED):
            return cls(source, read_tensors(path), None)
        if is_foreign(source):
            found = read_foreign(source, None if says_size(path) else shape)
            return cls(source, found.load().state_dict(), found.cfg)
        net, options, _ = load_net(find_checkpoint(source))
        parts = ("net", "schedule", "objective")
        return cls(source, net.state_dict(), DictConfig({n: getattr(options, n) for n in parts}))

    def named_as(self, own: Mapping[str, Tensor], node: DictConfig) -> dict[str, Tensor]:
        """The tensors under the names of a net: those that it has, and the others as they are.

        - `own`: the state dict of the net, and `node` its options.
        """
        library = next((lib for name, lib in LIBRARIES.items() if name in self.tensors), None)
        if self.cfg is not None or library is None:
            return dict(self.tensors)
        if node["_target_"] != "ddiff.nets.UNet":
            raise DdiffError(f"init: {self.path} is a U-Net of {library.name}; use net=unet")
        state = with_current_names(self.tensors, library)
        inside = [name for name in own if not name.startswith(("condition.labels", "gain"))]
        names = names_in(library, inside, len(node.channels), node.num_blocks)
        found = {}
        for ours, theirs in names.items():
            if all(name in state for name in theirs):
                found[ours] = torch.cat([state.pop(name).float() for name in theirs])
        return found | state
