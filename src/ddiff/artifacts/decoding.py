"""The decoder of a net that was trained in latents, as checkpoints and exported files keep it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from ddiff.artifacts.formats import Format
from ddiff.artifacts.seal import unseal
from ddiff.build import build_net
from ddiff.config.trees import check_size
from ddiff.config.validation import validate
from ddiff.nets.autoencoder import Decoder
from ddiff.system.errors import ConfigError, DdiffError

# what facts that are no decoder's make the code below raise
WRONG = (AttributeError, LookupError, TypeError, ValueError, RuntimeError, ConfigError,
         OmegaConfBaseException)  # fmt: skip


class DecoderFile(nn.Module):
    """A decoder in a file of its own: latents z [B, c, *S] -> samples [B, C, *S] in [-1, 1].

    `batch`: the one number of rows that the file takes; None: any number.
    """

    def __init__(
        self, run: Callable[..., Tensor], shape: Sequence[int], bound: float, batch: int | None
    ) -> None:
        super().__init__()
        self.run, self.shape, self.bound, self.batch = run, tuple(shape), bound, batch

    @torch.no_grad()
    def forward(self, z: Tensor) -> Tensor:
        size = self.batch or len(z)
        parts = []
        for part in z.float().split(size):
            rows = torch.arange(size, device=z.device) % len(part)  # fills the last part up
            parts.append(self.run(part[rows].contiguous())[: len(part)])
        return torch.cat(parts)


def bounded(clamp: float | None, decoder: Decoder | DecoderFile | None) -> float | None:
    """Return the bound of the x_0 estimate in the units of the net, which are those of latents
    where there is a decoder."""
    return clamp if clamp is None or decoder is None else clamp * decoder.bound


def beside_of(path: Path, kind: Format) -> Path:
    """Return the name of the decoder's file beside that of the net."""
    return path.with_name(f"{path.name.removesuffix(kind.ending)}_decoder{kind.ending}")


def decoder_file(path: Path, said: Any, kind: Format, device: torch.device) -> DecoderFile | None:
    """Open the decoder beside an exported net whose facts say this of it; None: they say nothing.

    Raises DdiffError for a file that is not there, or another one.
    """
    if said is None:
        return None
    try:
        file, sha256, shape = path.with_name(str(said["file"])), said["sha256"], said["shape"]
        bound, batch = float(said["bound"]), said["batch"]
    except (KeyError, TypeError, ValueError) as error:
        raise DdiffError(f"refused {path}: what it says of its decoder is damaged") from error
    if not file.is_file():
        raise DdiffError(f"{path} draws latents, and their decoder {file} is not there")
    if unseal(file).sha256 != sha256:
        raise DdiffError(f"refused {file}: it is not the decoder that was exported with {path}")
    return DecoderFile(kind.open(file, device), shape, bound, batch)


def decoder_of(source: str, facts: Any) -> Decoder:
    """Build a decoder from its options, tensors and bound.

    `facts` are those of `ddiff.data.latent.Latent`, which anyone may have written. Raises
    DdiffError where they make no decoder.
    """
    try:
        check_size(facts["net"])
        node = DictConfig(facts["net"])
        validate(DictConfig({"net": node}), bounds=False, stages=(False,))
        net: Any = build_net(node)
        decoder = Decoder(net, facts["net"], bound=float(facts["bound"]))
        decoder.load_state_dict(facts["state"])
    except WRONG as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise DdiffError(f"the decoder in {source} is damaged: {why[0]}") from error
    if not bool((decoder.std > 0).all()) or not 0 < decoder.bound < float("inf"):
        raise DdiffError(f"the decoder in {source} is damaged: its units are no numbers")
    return decoder.requires_grad_(False).eval()
