"""Draws samples from a run or a checkpoint."""

from omegaconf import DictConfig

from ddiff.config.shell import entry
from ddiff.sampling.from_run import drop_empty, offer_run

FROM_RUN = ("solver", "guidance", "precision")


@entry("sample", prepare=offer_run(*FROM_RUN))
def main(cfg: DictConfig) -> None:
    """Draws samples from a run or a checkpoint, with any solver and guidance, to .npy, a .png grid
    and, for volumes, meshes. Solver, guidance and precision are the run's own unless chosen."""
    from ddiff.artifacts.trained import Trained
    from ddiff.config.options import Sample, typed
    from ddiff.config.trees import resolved
    from ddiff.config.validation import validate
    from ddiff.sampling.given import given_of
    from ddiff.sampling.writing import write_samples
    from ddiff.study.engines.sharding import shards
    from ddiff.system.threads import threads

    cfg = resolved(cfg)
    drop_empty(cfg, *FROM_RUN)
    validate(cfg, "sample")
    options = typed(Sample, cfg)
    drawn_by = shards(options.engine) if options.engine else None
    with threads(options.threads, options.accelerator):
        trained = Trained.load(options.run, options.weights, options.accelerator, options.shape)
        given = given_of(options, trained)
        write_samples(trained, options, drawn_by, given)


if __name__ == "__main__":
    main()
