"""Measures samples against data."""

from omegaconf import DictConfig

from ddiff.config.shell import entry
from ddiff.sampling.from_run import drop_empty, offer_run

FROM_RUN = ("solver", "guidance", "precision", "data")


@entry("evaluate", prepare=offer_run(*FROM_RUN))
def main(cfg: DictConfig) -> None:
    """Measures a run's samples, or anyone's (samples=), against its data, other data (data=), or a
    file or folder (reference=): a table, a JSON that carries every figure's protocol, and, for a
    run, scalars in its TensorBoard."""
    from ddiff.config.options import Evaluate, typed
    from ddiff.config.trees import resolved
    from ddiff.config.validation import validate

    cfg = resolved(cfg)
    drop_empty(cfg, *FROM_RUN)
    if "metrics" not in cfg:
        cfg.metrics = {}  # metrics=[]
    validate(cfg, "evaluate")

    from ddiff.metrics.evaluation import evaluate
    from ddiff.sampling.writing import draw
    from ddiff.study.engines.sharding import shards
    from ddiff.system.threads import threads

    options = typed(Evaluate, cfg)
    with threads(options.threads, options.accelerator):
        evaluate(options, shards(options.engine) if options.engine else draw)


if __name__ == "__main__":
    main()
