"""The choice `from_run` of groups such as `solver=`: a run's own options, as their default."""

import re
from collections.abc import Callable
from pathlib import Path

import yaml
from omegaconf import DictConfig

from ddiff.config.trees import resolved, stored


def offer_run(*groups: str) -> Callable[[list[str]], None]:
    """Return a function that makes the options of the run in `run=` the choice `from_run`."""

    def prepare(argv: list[str]) -> None:
        from hydra.core.config_store import ConfigStore

        source = _said("run", argv)
        cfg = _config(source, _shape(argv)) if source and source != "null" else {}
        for group in groups:
            ConfigStore.instance().store(name="from_run", group=group, node=cfg.get(group) or {})

    return prepare


def drop_empty(cfg: DictConfig, *groups: str) -> None:
    """Remove groups whose choice `from_run` is empty.

    That is so if no run is named, or if the run has no such group: a classifier has no solver.
    """
    for group in groups:
        if not cfg[group]:
            del cfg[group]


def _said(option: str, argv: list[str]) -> str | None:
    """The value that the command line gives to an option."""
    words = (word.partition("=") for word in argv)
    said = next((value for name, _, value in words if name == option), None)
    quoted = said and len(said) > 1 and said[0] == said[-1] and said[0] in "'\""
    return said[1:-1] if said and quoted else said


def _shape(argv: list[str]) -> list[int] | None:
    """The shape that the command line gives, as [1,64,64,64]; what is wrong with it comes later."""
    said = _said("shape", argv)
    found = yaml.safe_load(said) if said and re.fullmatch(r"\[[\d, ]*\]", said) else None
    return found or None


def _config(source: str, shape: list[int] | None) -> DictConfig:
    path = Path(source) / "config.yaml"
    if path.is_file():
        return stored(path)
    from ddiff.artifacts.loading import facts_of, is_artifact, read
    from ddiff.interchange.folders import is_foreign, read_foreign
    from ddiff.interchange.tensors import SAFE

    if is_artifact(source):
        return read(Path(source))[1]
    if source.endswith(SAFE):
        return resolved(DictConfig(facts_of(Path(source))["config"]))
    if is_foreign(source):
        return read_foreign(source, shape).cfg
    from ddiff.config.trees import config_of
    from ddiff.system.checkpoints import find_checkpoint, load_checkpoint

    return config_of(load_checkpoint(find_checkpoint(source)))
