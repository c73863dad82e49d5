"""The choice `from_run` of groups such as `solver=`: a run's own options, as their default."""

from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from ddiff.config.trees import stored


def offer_run(*groups: str) -> Callable[[list[str]], None]:
    """Return a function that makes the options of the run in `run=` the choice `from_run`."""

    def prepare(argv: list[str]) -> None:
        from hydra.core.config_store import ConfigStore

        source = next((word.partition("=")[2] for word in argv if word.startswith("run=")), None)
        cfg = _config(source) if source and source != "null" else {}
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


def _config(source: str) -> DictConfig:
    yaml = Path(source) / "config.yaml"
    if yaml.is_file():
        return stored(yaml)
    from ddiff.artifacts.loading import is_artifact, read

    if is_artifact(source):
        return read(Path(source))[1]
    from ddiff.config.trees import config_of
    from ddiff.system.checkpoints import find_checkpoint, load_checkpoint

    return config_of(load_checkpoint(find_checkpoint(source)))
