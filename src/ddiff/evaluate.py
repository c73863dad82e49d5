"""Measures samples against data."""

from omegaconf import DictConfig

from ddiff.cli import entry
from ddiff.from_run import offer_run

FROM_RUN = ("solver", "guidance", "precision", "data")


@entry("evaluate", prepare=offer_run(*FROM_RUN))
def main(cfg: DictConfig) -> None:
    """Measures a run's samples, or anyone's (samples=), against its data, other data (data=), or a
    file or folder (reference=): a table, a JSON that carries every figure's protocol, and, for a
    run, scalars in its TensorBoard."""
    from ddiff.config import resolved, validate

    cfg = resolved(cfg)
    for group in FROM_RUN:
        if not cfg[group]:  # there is no run to take it from
            del cfg[group]
    if "metrics" not in cfg:
        cfg.metrics = {}  # metrics=[]
    validate(cfg, "evaluate")

    from ddiff.evaluation import evaluate

    evaluate(cfg)


if __name__ == "__main__":
    main()
