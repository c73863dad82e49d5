"""Do the losses rank timesteps as their gradients do?

    python experiments/score_correlation/measure.py        # about a quarter of an hour

Trains with uniform timesteps for every objective and stops at the start, the middle and the end.
There it compares, over 50 bins of timesteps, what online_topk's proxy has gathered from the
training losses with the exact gradient norms of all parameters (mean over batches): Spearman's rank
correlation, and how many of the exact half the proxy's best half holds. sqrt(L) is the gradient at
the net's output; what is missing is the Jacobian's norm J = exact / proxy, which is tabulated;
`calibrated` is the proxy times the J of the stop before. Writes results.json, correlation.png and
README.md beside this file.
"""

import argparse
import json
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from scipy.stats import spearmanr
from torch import Tensor

from ddiff.build import build_precision
from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.diffusion.timesteps import OnlineTopK
from ddiff.diffusion.timesteps.base import Gradient
from ddiff.pages.plotting import new_figure
from ddiff.system.environment import environment
from ddiff.system.random import generator
from ddiff.training.building import build_module, build_trainer, fill_in_data_facts
from ddiff.training.loggers import TensorBoard
from ddiff.training.modules import DDPM

HERE = Path(__file__).parent
STUDIES = {
    "digits": ["experiment=digits_cfg", "budget.batch_size=64"],
    "voxel 32^3": [
        "experiment=voxel_baseline",
        "data.centre=fixed",
        "optimizer=adamw",
        "optimizer.lr=1.0e-3",
        "module.ema_decay=0.995",
        "data.size=32",
        "data.num=1000",
        "schedule.snr_factor=0.015625",
    ],
}
OBJECTIVES = {"digits": ["eps", "x0", "v"], "voxel 32^3": ["eps", "x0", "v"]}
BINS = 50


class Compare(Callback):
    """Lets a proxy watch the training, and measures exact scores at the stops."""

    def __init__(self, watcher: OnlineTopK, stops: list[int], batches: int) -> None:
        self.watcher, self.stops, self.batches = watcher, stops, batches
        self.found: list[dict[str, list[float]]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DDPM)
        t = outputs["t"]
        self.watcher.update(
            t, outputs["losses"], pl_module.objective.weights_at(pl_module.schedule, t)
        )
        if trainer.global_step in self.stops:
            stop = {"proxy": self.watcher.average.value.tolist()}
            for of in ("exact", "last_layer"):
                stop[of] = self.measured(trainer, pl_module, of).tolist()
            self.found.append(stop)

    def measured(self, trainer: Trainer, module: DDPM, of: Gradient) -> Tensor:
        """Mean over batches of the gradient norm at the middle of every bin, [BINS]."""
        data = iter(trainer.datamodule.train_dataloader())  # pyright: ignore
        norms = [
            module.gradient_norms(
                next(data), generator("cpu", "compare", n), self.watcher.bins.middles(), of
            )
            for n in range(self.batches)
        ]
        return torch.stack(norms).mean(0)


def run(options: list[str], steps: int, batches: int, folder: Path) -> list[dict[str, list[float]]]:
    cfg = train_options(*options, f"budget.max_steps={steps}", f"budget.val_every={steps}")
    data = build(cfg.data)
    data.setup("fit")
    fill_in_data_facts(cfg, data)
    precision = build_precision(cfg.precision, torch.device("cpu"))
    module = build_module(cfg, precision)
    assert isinstance(module, DDPM)
    stops = [steps // 10, steps // 2, steps]
    compare = Compare(OnlineTopK(module.schedule, bins=BINS), stops, batches)
    build_trainer(cfg, folder, TensorBoard(folder), [compare], precision).fit(module, data)
    return compare.found


def agreement(score: list[float], exact: list[float]) -> tuple[float, float]:
    """Spearman's rank correlation, and the share of the exact best half that the score finds."""
    half = len(exact) // 2
    best = partial(sorted, range(len(exact)), reverse=True)
    a, b = (set(best(key=s.__getitem__)[:half]) for s in (score, exact))
    correlation: Any = spearmanr(score, exact)
    return float(correlation.statistic), len(a & b) / half


def jacobian(stop: dict[str, list[float]]) -> list[float]:
    return [e / p for e, p in zip(stop["exact"], stop["proxy"], strict=True)]


def seen(stops: list[dict[str, list[float]]]) -> list[dict[str, list[float]]]:
    """The stops without the bins that no draw had hit at the first stop."""
    met = [value > 0 for value in stops[0]["proxy"]]
    return [{name: list(compress(each, met)) for name, each in stop.items()} for stop in stops]


def table(results: dict[str, list[dict[str, list[float]]]]) -> list[str]:
    lines = [
        "| training | stop | proxy: rank correlation | of the exact half | last layer: rank "
        "correlation | of the exact half | calibrated: rank correlation | J, largest to smallest |",
        "|---" * 8 + "|",
    ]
    for name, stops in results.items():
        for when, before, stop in zip(
            ("start", "middle", "end"), [None, *stops[:-1]], stops, strict=True
        ):
            j = jacobian(stop)
            cells = [f"{name}", when]
            for score in ("proxy", "last_layer"):
                rank, half = agreement(stop[score], stop["exact"])
                cells += [f"{rank:.2f}", f"{half:.0%}"]
            calibrated = ""
            if before:
                pairs = zip(stop["proxy"], jacobian(before), strict=True)
                rank, _ = agreement([p * q for p, q in pairs], stop["exact"])
                calibrated = f"{rank:.2f}"
            lines.append(f"| {' | '.join([*cells, calibrated, f'{max(j) / min(j):.1f}x'])} |")
    return lines


def draw(results: dict[str, list[dict[str, list[float]]]], path: Path) -> None:
    figure = new_figure(4 * 3, 2.6 * len(results), layout="constrained")
    axes = figure.subplots(len(results), 3, squeeze=False)
    for row, (name, stops) in zip(axes, results.items(), strict=True):
        for axis, when, stop in zip(row, ("start", "middle", "end"), stops, strict=True):
            for score in ("exact", "last_layer", "proxy"):
                values = torch.tensor(stop[score])
                x = (torch.arange(len(values)) + 0.5) / len(values)
                axis.plot(x, values / values.mean(), label=score)
            rank, _ = agreement(stop["proxy"], stop["exact"])
            axis.set(title=f"{name}, {when}: {rank:.2f}", yscale="log")
    axes[0][0].legend(fontsize=8)
    for axis in axes[-1]:
        axis.set(xlabel="t / T")
    figure.suptitle("scores by timestep, each over its mean; rank correlation of proxy and exact")
    figure.savefig(path, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batches", type=int, default=4, help="of a measurement")
    parser.add_argument("--runs", type=Path, default=HERE.parents[1] / "runs/score_correlation")
    args = parser.parse_args()
    results = {}
    for study, options in STUDIES.items():
        for objective in OBJECTIVES[study]:
            folder = args.runs / f"{study}_{objective}_{args.steps}"
            file = folder / "scores.json"
            if not file.exists():
                folder.mkdir(parents=True, exist_ok=True)
                words = [*options, f"objective={objective}"]
                file.write_text(json.dumps(run(words, args.steps, args.batches, folder)))
            results[f"{study} {objective}"] = seen(json.loads(file.read_text()))
    where = environment(torch.device("cpu"), "bfloat16")
    content = {"environment": where, "steps": args.steps, "results": results}
    (HERE / "results.json").write_text(json.dumps(content) + "\n")
    draw(results, HERE / "correlation.png")
    verdict = HERE / "verdict.md"
    report = [
        "# Do the losses rank timesteps as their gradients do?",
        "",
        "Written by `python experiments/score_correlation/measure.py` on "
        f"{where['device_name']}, torch {where['packages']['torch']}: trainings of {args.steps} "
        f"steps with uniform timesteps, {BINS} bins; start, middle and end are after a tenth, half "
        "and all steps. Exact and last-layer norms are means over "
        f"{args.batches} batches. J is exact / "
        "proxy; calibrated is the proxy times the J of the stop before.",
        "",
        verdict.read_text() if verdict.exists() else "",
        *table(results),
        "",
        "![scores](correlation.png)",
        "",
    ]
    (HERE / "README.md").write_text("\n".join(report))


if __name__ == "__main__":
    main()
