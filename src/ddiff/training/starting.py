"""Fine-tuning: a new training that starts from the weights of another."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ddiff.artifacts.sources import Source
from ddiff.config.options import Train
from ddiff.config.resolvers import KNOWN, data_name, data_sides, learns_shortcuts
from ddiff.interchange.names import in_words, listed
from ddiff.system.errors import ConfigError

PARTS = ("net", "schedule", "objective")  # that a source brings with it
HEAD = ("out.", "gain.")  # what turns features into the prediction of one objective
LABELS = "condition.labels.weight"  # row 0 is "no label"
LAST_BIAS = "condition.embedding.mlp.2.bias"  # of the embedding that rows of labels are added to


@dataclass(frozen=True)
class Start:
    """Names of tensors that were taken, and those that were not, each with the reason."""

    source: str
    taken: list[str]
    anew: dict[str, str]  # name -> why the source's was not taken
    left: list[str]  # of the source, which this net has not
    parts: list[str]  # options that came with the source

    def __str__(self) -> str:
        of = len(self.taken) + len(self.anew)
        words = [f"from {self.source}: {len(self.taken)} of {of} tensors"]
        words += [f"with its {', '.join(self.parts)}"] if self.parts else []
        reasons = sorted(set(self.anew.values()))
        for why in reasons:
            words.append(f"{why}: {listed([n for n, w in self.anew.items() if w == why])}")
        words += [f"not used: {listed(self.left)}"] if self.left else []
        return "; ".join(words)

    def facts(self) -> dict[str, Any]:
        """Facts that a run notes about its start."""
        return {"source": self.source, "taken": len(self.taken), "anew": self.anew,
                "left": self.left, "parts": self.parts}  # fmt: skip


def with_parts_of_source(cfg: DictConfig, said: Collection[str]) -> DictConfig:
    """The config of a training, with the net, schedule and objective of the weights of `init`.

    - `cfg`: resolved.
    - `said`: options of this command, which count more: `net=unet`, `net.dropout=0.1`.
    """
    source = Source.at(cfg.init, _shape(cfg))
    if source.cfg is None:
        return cfg
    cfg = cfg.copy()
    for group in brought(said):
        node = source.cfg.get(group)
        if not node or not cfg.get(group):
            continue
        node = DictConfig(OmegaConf.to_container(node))
        if group == "net":
            _fit(node, cfg, source.path)
            if "embedding" in node and learns_shortcuts(cfg.module):
                node.embedding.shortcuts = True
        for name in said:
            if name.startswith(f"{group}/"):
                node[name.partition("/")[2]] = OmegaConf.select(cfg, name.replace("/", "."))
        for name in said:
            if name.startswith(f"{group}."):
                OmegaConf.update(node, name.partition(".")[2], OmegaConf.select(cfg, name))
        cfg[group] = node
    return cfg


def brought(said: Collection[str]) -> list[str]:
    """Groups that the source decides, because the command does not choose them."""
    return [group for group in PARTS if group not in said]


def _shape(cfg: DictConfig) -> list[int] | None:
    """The shape of a sample without its channels, [0, *S], if the options of the data tell it."""
    if data_name(cfg.data["_target_"]) not in KNOWN:
        return None
    return [0, *data_sides(cfg.data)]


def _fit(node: DictConfig, cfg: DictConfig, source: str) -> None:
    """Fits the net of a source to the data: its shape comes from them, attention stays at its
    levels."""
    before, now = node.get("shape"), _shape(cfg)
    node.shape, node.num_classes = None, None  # filled in from the data
    if "conditions" in node:
        node.conditions = None
    if not before or not now:
        return
    if len(before) != len(now):
        kinds = {3: "pictures", 4: "volumes"}
        raise ConfigError(
            f"init: the net of {source} is for {kinds[len(before)]}, and data= are "
            f"{kinds[len(now)]}"
        )
    if "channels" not in node:
        return
    divisor = node.get("patch_size", 1) * 2 ** (len(node.channels) - 1)
    if odd := [side for side in now[1:] if side % divisor]:
        raise ConfigError(
            f"init: the net of {source} needs a size that divides by {divisor}, and the data have "
            f"{odd[0]}; choose another data.size"
        )
    if node.get("attention"):
        levels = [max(before[1:]) // size for size in node.attention]
        node.attention = [max(1, max(now[1:]) // level) for level in levels]


def start_from(options: Train, net: nn.Module, parts: list[str]) -> Start:
    """Takes weights of `init` into a net that was just built; says what was taken."""
    assert options.init
    source = Source.at(options.init, [0, *options.net.shape[1:]])
    own = net.state_dict()
    theirs = source.named_as(own, options.net)
    others = _other_objective(source, options)
    state: dict[str, Tensor] = {}
    anew: dict[str, str] = {}
    for name, value in own.items():
        given = theirs.get(name)
        if others and name.startswith(HEAD):
            anew[name] = f"made anew for {others}"
        elif name == LABELS and (given is None or given.shape != value.shape):
            state[name] = _labels(value, given)
            anew[name] = "every label starts as no label"
        elif given is None:
            anew[name] = "made anew"
        elif given.shape != value.shape:
            anew[name] = f"made anew, {in_words(value.shape)} and not {in_words(given.shape)}"
        else:
            state[name] = given.to(value.dtype)
    if LABELS in theirs and LABELS not in own and LAST_BIAS in state:
        state[LAST_BIAS] = state[LAST_BIAS] + theirs[LABELS][0]  # "no label" becomes the rule
    taken = [name for name in state if name not in anew]
    if not taken:
        raise ConfigError(f"init: no tensor of {source.path} fits this net")
    net.load_state_dict({**own, **state})
    left = sorted(theirs.keys() - own.keys())
    with_it = source.cfg if source.cfg is not None else {}
    return Start(source.path, taken, anew, left, [part for part in parts if with_it.get(part)])


def _labels(own: Tensor, given: Tensor | None) -> Tensor:
    """Rows that all add what the source adds without a label."""
    row = torch.zeros_like(own[:1]) if given is None else given[:1].to(own)
    return row.expand_as(own).clone()


def _other_objective(source: Source, options: Train) -> str | None:
    """The objective, if the source was trained for another one."""
    before = source.cfg.get("objective") if source.cfg is not None else None
    if not before or not options.objective:
        return None
    names = [str(node["_target_"]).rpartition(".")[2] for node in (before, options.objective)]
    return None if names[0] == names[1] else f"objective {names[1]}, not {names[0]}"
