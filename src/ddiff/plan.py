"""Fits a solver of few steps to a run's own long solution, for solver=learned."""

from omegaconf import DictConfig

from ddiff.config.shell import entry
from ddiff.sampling.from_run import drop_empty, offer_run

FROM_RUN = ("guidance",)


@entry("plan", prepare=offer_run(*FROM_RUN))
def main(cfg: DictConfig) -> None:
    """Fits the times and coefficients of a solver of few steps to the samples that the same net
    makes of the same noise in many, and writes them to a file: solver=learned samples by it."""
    from ddiff.config.options import Plan, typed
    from ddiff.config.trees import resolved
    from ddiff.config.validation import validate

    cfg = resolved(cfg)
    drop_empty(cfg, *FROM_RUN)
    validate(cfg, "plan")

    from ddiff.artifacts.trained import Trained
    from ddiff.sampling.fitting import fit_plan
    from ddiff.system.threads import threads

    options = typed(Plan, cfg)
    with threads(options.threads, options.accelerator):
        fit_plan(Trained.load(options.run, options.weights, options.accelerator), options)


if __name__ == "__main__":
    main()
