"""Draws samples from a run or a checkpoint."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ddiff.cli import entry

FROM_RUN = ("solver", "guidance", "precision")


def offer_run(argv: list[str]) -> None:
    """Makes the run's own solver, guidance and precision the choice `from_run` of their groups."""
    from hydra.core.config_store import ConfigStore

    source = next((word.partition("=")[2] for word in argv if word.startswith("from=")), None)
    cfg = _config(source) if source else {}
    for group in FROM_RUN:
        ConfigStore.instance().store(name="from_run", group=group, node=cfg.get(group, {}))


def _config(source: str) -> DictConfig:
    yaml = Path(source) / "config.yaml"
    if yaml.is_file():
        return DictConfig(OmegaConf.load(yaml))
    from ddiff.checkpoints import config_of, find_checkpoint, load_checkpoint

    return config_of(load_checkpoint(find_checkpoint(source)))


@entry("sample", prepare=offer_run)
def main(cfg: DictConfig) -> None:
    """Draws samples from a run or a checkpoint, with any solver and guidance, to .npy, a .png grid
    and, for volumes, meshes. Solver, guidance and precision are the run's own unless chosen."""
    from ddiff.config import resolved, validate
    from ddiff.output import write_samples
    from ddiff.trained import Trained

    cfg = resolved(cfg)
    validate(cfg)
    trained = Trained.load(cfg["from"], cfg.weights, cfg.accelerator)
    generation = trained.generation(cfg)
    write_samples(generation, cfg, trained.run_dir)


if __name__ == "__main__":
    main()
