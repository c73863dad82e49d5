"""Measures a score for every noise level, for timesteps=precomputed_topk."""

import re
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ddiff.config.options import Importance, own_options, tree_of, typed
from ddiff.config.shell import entry
from ddiff.recipes.choosing import choose_recipe
from ddiff.system.errors import ConfigError

if TYPE_CHECKING:
    from ddiff.artifacts.trained import Trained

OWN = (*own_options(Importance), "threads")
OF_THE_RUN = ("name", "budget", "data", "net", "schedule", "objective", "module", "precision")


@entry("importance", prepare=choose_recipe)
def main(cfg: DictConfig) -> None:
    """Measures how large the loss's gradient is at every noise level, of an untrained net or of a
    run's, and writes the scores with a plot: timesteps=precomputed_topk trains by them."""
    from ddiff.config.trees import resolved
    from ddiff.config.validation import validate
    from ddiff.training.rehearsal import rehearse

    given = list(HydraConfig.get().overrides.task)
    trained = load_run(cfg, given)
    if not cfg.get("timesteps"):
        name = str(cfg.module["_target_"]).rpartition(".")[2].lower()
        raise ConfigError(f"experiment: module={name} has no timesteps to score")
    # scores do not depend on how timesteps are drawn; gradients are taken of the net itself
    cfg.timesteps = {"_target_": "ddiff.diffusion.timesteps.Uniform"}
    cfg.backend = {"_target_": "ddiff.backends.Eager"}
    cfg.trainer.accelerator = cfg.accelerator
    cfg = resolved(cfg)
    if trained:
        validate(cfg, "importance", bounds=False)  # the run's own options
    else:
        rehearse(cfg, "importance")

    from ddiff.system.threads import threads
    from ddiff.training.scoring import ScoredNet, measure, report, write

    options = typed(Importance, cfg)
    subject = ScoredNet.of(options, trained)
    with threads(options.threads, options.accelerator):
        scores = measure(subject, options)
    write(scores, subject, options)
    report(scores, subject, options, training_options(cfg, given))


def load_run(cfg: DictConfig, given: list[str]) -> "Trained | None":
    """The run of `run=`, whose own config takes the place of the composed one."""
    names = [group_of(word) for word in given]
    if cfg.ckpt_path:
        raise ConfigError("ckpt_path: resumes a training; a net to measure is given by run=")
    if cfg.init:
        raise ConfigError("init: starts a training; a net to measure is given by run=")
    if not cfg.run:
        return None
    strange = sorted({name for name in names if name not in (*OWN, "seed", "precision")})
    if strange:
        options = ", ".join(f"{name}=" for name in strange)
        raise ConfigError(f"run: a run is measured as it was trained; leave out {options}")
    from ddiff.artifacts.trained import Trained
    from ddiff.system.checkpoints import find_checkpoint

    find_checkpoint(cfg.run)  # an artifact has no gradients to measure
    trained = Trained.load(cfg.run, cfg.weights, cfg.accelerator)
    own = tree_of(trained.options)
    for group in OF_THE_RUN:
        if group not in names:
            cfg[group] = own[group]
    return trained


def training_options(cfg: DictConfig, given: list[str]) -> list[str]:
    """The command line of the training that the scores are for."""
    from ddiff.system.checkpoints import find_checkpoint, load_checkpoint

    if cfg.run:
        given = load_checkpoint(find_checkpoint(cfg.run))["ddiff"]["overrides"]
    others = (*OWN, "timesteps", "run_dir", "ckpt_path")
    return [word for word in given if group_of(word) not in others]


def group_of(override: str) -> str:
    """`+net.channels=[8]` -> `net`."""
    return re.split(r"[.=/@]", override.lstrip("+~"), maxsplit=1)[0]


if __name__ == "__main__":
    main()
