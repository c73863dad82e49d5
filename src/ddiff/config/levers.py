"""Levers: options that make a training need less memory.

This one list serves a budget that is too small and a device that ran out of memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ddiff.config.options import Train, tree_of, typed

Setting = dict[str, Any]  # options of the command line

CHECKPOINT, PATCH, BATCH = "net.checkpoint_levels", "net.patch_size", "budget.batch_size"
ACCUMULATE = "trainer.accumulate_grad_batches"

LEVERS = {  # what it is called on the command line: what it does
    f"{CHECKPOINT}=[0]": "recomputes a level's activations, the same numbers",
    f"{ACCUMULATE}=2 with half the {BATCH}": "the same batch in two parts",
    "backend=native": "fused norms keep less; needs a compiler",
    "precision=bf16": "half the activations",
    f"{PATCH}=2 or 4": "another net: 4 to 64 times fewer positions",
    "sampling.batch_size": "where samples are what does not fit",
}
NODES = {  # what these words stand for in a config
    "backend=native": {"_target_": "ddiff.backends.Native", "graph": None},
    "precision=bf16": {
        "_target_": "ddiff.system.precision.Precision",
        "dtype": "bfloat16",
        "tf32": False,
    },
}


def levers_in_words() -> str:
    """The levers and what each does, in one line."""
    return "; ".join(f"{name} ({about})" for name, about in LEVERS.items())


@dataclass(frozen=True)
class Notch:
    """A setting that keeps the arithmetic; the batch is cut in so many more parts than now."""

    setting: Setting
    parts: int


def checkpointings(options: Train) -> list[Setting]:
    """Settings of checkpoint_levels: the present one, then more and more, largest maps first."""
    if "checkpoint_levels" not in options.net:
        return [{}]
    now = set(options.net.checkpoint_levels)
    every = (list(range(n)) for n in range(1, len(options.net.channels) + 1))
    return [{}, *({CHECKPOINT: levels} for levels in every if now < set(levels))]


def notches(options: Train, checkpointing: Setting) -> Iterator[Notch]:
    """Whole batches, halves, quarters, as long as the parts are equal."""
    batch, accumulate = options.budget.batch_size, options.trainer.accumulate_grad_batches
    parts = 1
    while batch % parts == 0:
        cut = {ACCUMULATE: accumulate * parts, BATCH: batch // parts} if parts > 1 else {}
        yield Notch({**checkpointing, **cut}, parts)
        parts *= 2


def changes(options: Train, dtype: str, native: bool) -> Iterator[Setting]:
    """Settings that change the arithmetic or the net: first none, last the net's patches."""
    kernels = [{}] if native else [{}, {"backend": "native"}]
    bf16 = [{}] if dtype in ("bfloat16", "float16") else [{}, {"precision": "bf16"}]
    patches: list[Setting] = [{}]
    if "patch_size" in options.net:
        skip = {} if options.net.input_skip else {"net.input_skip": True}
        patches += [{PATCH: size, **skip} for size in (2, 4) if size > options.net.patch_size]
    for patch, number, kernel in product(patches, bf16, kernels):
        yield {**kernel, **number, **patch}


def applied(options: Train, setting: Setting) -> Train:
    """The options that the command line would have given with these words."""
    tree = DictConfig(tree_of(options))
    for name, value in setting.items():
        node = NODES.get(f"{name}={value}")
        OmegaConf.update(tree, name, value if node is None else node, merge=False)
    tree.data.batch_size = tree.budget.batch_size
    return typed(Train, tree)


def pasted(setting: Setting) -> str:
    """The setting as words of the command line."""
    return " ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else str(value).replace(' ', '')}"
        for name, value in setting.items()
    )
