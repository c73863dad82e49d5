"""The decoder of a net that was trained in latents, as checkpoints and exported files keep it."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from ddiff.build import build_net
from ddiff.config.trees import check_size
from ddiff.config.validation import validate
from ddiff.nets.autoencoder import Decoder
from ddiff.system.errors import DdiffError


def decoder_of(source: str, facts: Mapping[str, Any] | None) -> Decoder | None:
    """Build a decoder from its options, tensors and bound; None where nothing is said of one.

    `facts` are those of `ddiff.data.latent.Latent`, which anyone may have written. Raises
    DdiffError where they make no decoder.
    """
    if facts is None:
        return None
    try:
        check_size(facts["net"])
        node = DictConfig(facts["net"])
        validate(DictConfig({"net": node}), bounds=False, stages=(False,))
        net: Any = build_net(node)
        decoder = Decoder(net, facts["net"], bound=float(facts["bound"]))
        decoder.load_state_dict(facts["state"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise DdiffError(f"the decoder in {source} is damaged: {why[0]}") from error
    if not bool((decoder.std > 0).all()) or not 0 < decoder.bound < float("inf"):
        raise DdiffError(f"the decoder in {source} is damaged: its units are no numbers")
    return decoder.requires_grad_(False).eval()
