"""Summary of a finished training: metrics.json, the loggers' last figures, a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lightning.pytorch import Callback
from torch.utils.tensorboard.summary import hparams

from ddiff.config.trees import flat
from ddiff.system.console import console, show_table
from ddiff.system.errors import DdiffError, nearest
from ddiff.system.files import read_json, write_json
from ddiff.training.callbacks import Evaluations, Resources, Timesteps
from ddiff.training.callbacks.resources import in_words
from ddiff.training.callbacks.timesteps import Report
from ddiff.training.loggers import TensorBoard
from ddiff.training.modules.tenths import TENTHS

if TYPE_CHECKING:
    from ddiff.training.run import Run

Part = TypeVar("Part", bound=Callback)
PROTOCOL = (
    "val/* and val_loss: averaged weights, uniform timesteps, the same noise "
    "every time; train_loss: unweighted, between the last two reports; tenths: of t / T; "
    "seconds: wall clock of all processes of this run; peaks: the largest; speed and other "
    "resources: this process, waiting for data included, pauses for validation, samples "
    "and saves not; kept: figures of an earlier process, which this one did not measure, "
    "and the step it ended at; "
    "peak_memory_mb: "
)


def summarise(run: "Run") -> float | None:
    """Writes metrics.json and the loggers' last figures, prints the closing table, and returns the
    figure that `optimized_metric` names."""
    timesteps, resources = _part(run, Timesteps), _part(run, Resources)
    report = timesteps.report if timesteps else None
    taken = resources.summary if resources else {}
    measured = {"train/loss": float(run.module.latest["train/loss"])} | {
        name: float(value)
        for name, value in run.trainer.callback_metrics.items()
        if name.startswith("val/")
    }
    metrics = {
        **measured,
        "step": run.trainer.global_step,
        "samples_per_second": round(run.progress.samples_per_second, 3),
        "seconds": round(run.progress.wall(), 1),
        "peak_memory_mb": round(run.peak.mb()),
        **({"resources": _rounded(taken)} if taken else {}),
        **({"timesteps": report.summary()} if report else {}),
        "protocol": PROTOCOL + run.peak.meaning,
    }
    if run.point and run.point.in_place:
        _keep(metrics, read_json(run.path / "metrics.json"))
    figure = _optimized(run, metrics)
    write_json(run.path / "metrics.json", metrics)
    options = flat(run.tree)
    numbers = {k: v for k, v in measured.items() if k.startswith("val/")}
    for logger in run.loggers:
        if isinstance(logger, TensorBoard):
            for summary in hparams(options, numbers):
                logger.experiment._get_file_writer().add_summary(summary)
        else:
            logger.log_hyperparams(options)
        logger.finalize("success")
    _closing_table(run.path, metrics, report, run.module.generative)
    return figure


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in figures.items()}


def _part(run: "Run", kind: type[Part]) -> Part | None:
    """The run's callback of this class, where the config has not left it out."""
    callbacks: list[Callback] = run.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def _optimized(run: "Run", metrics: dict[str, Any]) -> float | None:
    """The figure for a sweeper, noted in `metrics`; None where nobody chose one and there was no
    validation."""
    chosen = run.options.optimized_metric
    evaluations = _part(run, Evaluations)
    last = evaluations.last if evaluations else None
    quality = {f"quality/{f['name']}": f["value"] for f in last["figures"]} if last else {}
    known = {k: v for k, v in (metrics | quality).items() if isinstance(v, int | float)}
    name = chosen or "val/loss"
    if name not in known and chosen is None:
        return None
    if name not in known:
        raise DdiffError(
            f"optimized_metric: this run has no {name!r}{nearest(name, sorted(known))}; "
            f"the run itself is complete: {run.path}"
        )
    metrics["optimized"] = {"name": name, "value": known[name]}
    return float(known[name])


def _keep(metrics: dict[str, Any], before: dict[str, Any]) -> None:
    """Adds what only an earlier process of the run measured, and the larger peak."""
    own = ("kept", "optimized", "protocol")
    kept = {name: value for name, value in before.items() if name not in (*metrics, *own)}
    metrics |= kept
    steps = before.get("kept", {}) | {name: before.get("step") for name in kept}
    steps = {name: step for name, step in steps.items() if name in metrics and name not in own}
    if kept_now := {name: step for name, step in steps.items() if name in kept}:
        metrics["kept"] = kept_now
    if isinstance(peak := before.get("peak_memory_mb"), int | float):
        metrics["peak_memory_mb"] = max(metrics["peak_memory_mb"], peak)


def _closing_table(
    path: Path, metrics: dict[str, Any], report: Report | None, generative: bool
) -> None:
    apart = ("protocol", "resources", "timesteps", "kept", "optimized")
    rows = [
        (name, f"{value:.5g}" if isinstance(value, float) else str(value))
        for name, value in metrics.items()
        if name not in apart
    ]
    show_table((), rows, str(path), left=(0, 1))
    console.print()
    for line in in_words(metrics.get("resources", {})):
        console.print(line)
    if report:
        _timesteps_table(report)
    if pictures := sorted((path / "samples").glob("*.png")):
        console.print(f"samples     {pictures[-1]}")
        if generative:
            console.print(f"more        python -m ddiff.sample run={path} num_samples=64")
    if (path / "tensorboard").is_dir():
        console.print(f"dashboard   tensorboard --logdir {path / 'tensorboard'}")


def _timesteps_table(report: Report) -> None:
    console.print(f"timesteps   {report.title()}")
    columns = {
        "of t / T": TENTHS,
        "p": report.p,
        "score": report.score,
        "train loss": report.train_loss,
        "val loss": report.val_loss,
    }
    header, values = zip(*((n, v) for n, v in columns.items() if v is not None), strict=True)
    show_table(header, [list(map(_cell, row)) for row in zip(*values, strict=True)])


def _cell(value: str | float | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.2g}"
