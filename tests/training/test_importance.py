"""Scores of noise levels: right, repeatable, fit for training, refused where they do not fit."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from ddiff.config.options import Importance, typed
from ddiff.config.targets import build
from ddiff.config.trees import resolved
from ddiff.config.validation import train_options
from ddiff.diffusion.timesteps.bins import Bins
from ddiff.pages.plotting import score_picture
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.precision import Precision
from ddiff.system.random import generator
from ddiff.training.building import build_module, fill_in_data_facts
from ddiff.training.modules import DDPM
from ddiff.training.scoring import ScoredNet, Scores, check_numbers, measure
from tests.support.runs import TINY, Done, checkpoint, ddiff_many, job

OPTIONS = ("experiment=digits_cfg", *TINY, "precision=fp32", "trainer=cpu", "net.dropout=0.1",
           "objective.weighting=min_snr", "module.p_uncond=0.5")  # fmt: skip
FEW = ("bins=5", "min_batches=3", "max_batches=3")
SCHEDULE = "schedule=linear"
SCORES = "timesteps=precomputed_topk"

JOBS = {
    "exact": job("importance", *OPTIONS, *FEW, "out=exact.json"),
    "again": job("importance", *OPTIONS, *FEW, "out=again"),
    "last_layer": job("importance", *OPTIONS, *FEW, "out=last_layer.json", "score=last_layer"),
    "proxy": job("importance", *OPTIONS, *FEW, "out=proxy.json", "score=proxy", "seed=1"),
    "run": job("train", *OPTIONS, "budget.max_steps=6", "lr_schedule.warmup_steps=1",
               "optimizer.lr=0.01", "run_dir=run"),
    "ema": job("importance", "run=run", *FEW, "accelerator=cpu", "out=a/new/folder/ema.json"),
    "net": job("importance", "run=run", *FEW, "out=net.json", "weights=net", "batch_size=3",
               "score=proxy", "accelerator=cpu"),
    "loose": job("importance", *OPTIONS, "relative_error=9", "score=proxy", "bins=4", "out=loose"),
    "tight": job("importance", *OPTIONS, "relative_error=1e-6", "score=proxy", "bins=null",
                 "max_batches=5", "k=1", "schedule.T=7", "out=tight"),
    "trains": job("train", *OPTIONS, SCORES, "timesteps.path=exact.json", "budget.max_steps=2",
                  "run_dir=topk", "timesteps.k=2", "timesteps.epsilon=0"),
}  # fmt: skip
CUT, NEGATIVE, NESTED = "cut.json", "negative.json", "nested.json"
REFUSED = {  # the words that the line must hold
    "another schedule": (
        job("train", *OPTIONS, SCORES, "timesteps.path=exact.json", SCHEDULE),
        ["exact.json", "schedule._target_", "schedules.cosine there", "schedules.linear here"],
    ),
    "another net": (
        job("train", *OPTIONS, SCORES, "timesteps.path=exact.json", "net.channels=[8,24]"),
        ["net.channels is [8, 16] there and [8, 24] here"],
    ),
    "cut": (job("train", *OPTIONS, SCORES, f"timesteps.path={CUT}"), [CUT, "not a file"]),
    "negative": (job("train", *OPTIONS, SCORES, f"timesteps.path={NEGATIVE}"), [NEGATIVE, ">= 0"]),
    "nested": (job("train", *OPTIONS, SCORES, f"timesteps.path={NESTED}"), [NESTED, "list"]),
    "from and net": (job("importance", "run=run", "net=unet", "out=exact"), ["run:", "net="]),
    "from and data": (
        job("importance", "run=run", "data.size=16", "+schedule.tail=0", "experiment=digits_cfg"),
        ["run:", "data=, experiment=, schedule="],
    ),
    "too many": (job("importance", *OPTIONS, "bins=4", "k=5", "out=many"), ["1..4"]),
    "wrong score": (job("importance", *OPTIONS, "score=loss"), ["score", "last_layer"]),
    "ckpt_path": (job("importance", *OPTIONS, "ckpt_path=run"), ["ckpt_path", "run="]),
    "no place": (job("importance", *OPTIONS, "out=/proc/x"), ["/proc/x.json"]),
    "a folder": (job("importance", *OPTIONS, "out=folder.json"), ["folder.json is a folder"]),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    """A directory, and what every command answered in it."""
    cwd = tmp_path_factory.mktemp("importance")
    (cwd / CUT).write_text('{"origin": {}, "score": [1.0, 2')
    (cwd / NEGATIVE).write_text('{"origin": {}, "score": [1.0, -2.0]}')
    (cwd / NESTED).write_text('{"origin": {}, "score": [[1.0], [2.0]]}')
    (cwd / "folder.json").mkdir()
    jobs = {**JOBS, **{name: refused for name, (refused, _) in REFUSED.items()}}
    return cwd, dict(zip(jobs, ddiff_many(list(jobs.values()), cwd), strict=True))


def read(world: tuple[Path, dict[str, Done]], name: str) -> dict[str, Any]:
    return json.loads((world[0] / f"{name}.json").read_text())


def composed(verb: str, *options: str) -> DictConfig:
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        return resolved(compose(verb, list(options)))


def test_every_command_answers(world: tuple[Path, dict[str, Done]]) -> None:
    answers = {name: (world[1][name].status, world[1][name].err) for name in JOBS}
    assert answers == dict.fromkeys(JOBS, (0, ""))


def test_it_measures_what_would_be_trained() -> None:
    for options in ([], ["experiment=digits_cfg", "trainer=cpu", "budget.batch_size=5"]):
        train, importance = composed("train", *options), composed("importance", *options)
        assert {name: importance[name] for name in train} == train
        assert importance.batch_size == train.budget.batch_size


def directly(
    kind: str, seed: int, state: dict[str, torch.Tensor] | None = None, batch_size: int = 4
) -> list[float]:
    """The mean score of the middles of five bins over three batches: loops and autograd only."""
    cfg = train_options(*OPTIONS, f"seed={seed}", f"budget.batch_size={batch_size}")
    data = build(cfg.data)
    data.setup("fit")
    fill_in_data_facts(cfg, data)
    module: DDPM = build_module(cfg, Precision("float32"))
    net, schedule = module.net.eval(), module.schedule
    net.load_state_dict(state or net.state_dict())
    weights = module.objective.weights(schedule)
    batches = list(islice(data.train_dataloader(), 3))
    found = np.zeros((3, 5))
    for n, (x_0, y) in enumerate(batches):
        g = generator("cpu", seed, "importance", n)
        eps = torch.randn(x_0.shape, generator=g)
        labels = module.labels(y)
        if labels is not None:
            dropped = torch.rand(len(labels), generator=g) < module.p_uncond
            labels = torch.where(dropped, -1, labels)
        for i, at in enumerate((101, 301, 501, 701, 901)):
            t = torch.full((len(x_0),), at)
            pred = net(schedule.add_noise(x_0, t, eps), t - 1, labels)
            error = pred - module.objective.target(schedule, x_0, eps, t)
            losses = error.square().flatten(1).mean(1)
            if kind == "proxy":
                found[n, i] = float((weights[at] * losses.detach().sqrt()).mean())
                continue
            last = [p for name, p in net.named_parameters() if name.startswith("out")]
            parameters = last if kind == "last_layer" else list(net.parameters())
            gradients = torch.autograd.grad(
                (weights[at] * losses).mean(), parameters, materialize_grads=True
            )
            found[n, i] = sum(float(g.double().square().sum()) for g in gradients) ** 0.5
    return found.mean(0).tolist()


@pytest.mark.parametrize(("kind", "seed"), [("exact", 0), ("last_layer", 0), ("proxy", 1)])
def test_scores_of_an_untrained_net(
    kind: str, seed: int, world: tuple[Path, dict[str, Done]]
) -> None:
    content = read(world, kind)
    assert content["score"] == pytest.approx(directly(kind, seed), rel=1e-4)
    facts = {"weights": "fresh", "kind": kind, "T": 1000, "bins": 5, "batches": 3, "batch_size": 4}
    assert facts.items() <= content.items()


def test_scores_of_a_run_and_of_its_average(world: tuple[Path, dict[str, Done]]) -> None:
    ema, raw = read(world, "a/new/folder/ema"), read(world, "net")
    assert (ema["weights"], ema["batch_size"]) == ("ema of run at step 6", 4)
    assert (raw["weights"], raw["batch_size"]) == ("net of run at step 6", 3)
    assert ema["origin"] == raw["origin"] == read(world, "exact")["origin"]
    state = checkpoint(world[0] / "run")["state_dict"]
    ema_weights, raw_weights = (
        {name[4:]: value for name, value in state.items() if name.startswith(prefix)}
        for prefix in ("ema.", "net.")
    )
    assert ema["score"] == pytest.approx(directly("exact", 0, ema_weights), rel=1e-4)
    assert raw["score"] == pytest.approx(directly("proxy", 0, raw_weights, 3), rel=1e-4)
    assert raw["score"] != pytest.approx(directly("proxy", 0, ema_weights, 3), rel=1e-3)


def test_the_same_command_gives_the_same_files(world: tuple[Path, dict[str, Done]]) -> None:
    for ending in ("json", "png"):
        first, second = (world[0] / f"{name}.{ending}" for name in ("exact", "again"))
        assert first.read_bytes() == second.read_bytes()


def test_it_stops_at_the_error_asked_for(world: tuple[Path, dict[str, Done]]) -> None:
    loose, tight = read(world, "loose"), read(world, "tight")
    assert (loose["batches"], loose["bins"]) == (4, 4)  # min_batches
    assert (tight["batches"], tight["bins"], len(tight["score"])) == (5, 7, 7)
    for content in (loose, tight):
        relative = np.array(content["standard_error"]) / content["score"]
        assert content["relative_error"] == pytest.approx(relative.max())
        assert 1e-6 < content["relative_error"] < 0.5
    line = f"not reached relative_error=1e-06 in max_batches=5; it is {tight['relative_error']:.3g}"
    assert line in world[1]["tight"].out
    assert "not reached" not in world[1]["loose"].out


def test_it_says_what_is_chosen_and_how_to_train_with_it(
    world: tuple[Path, dict[str, Done]],
) -> None:
    content, out = read(world, "exact"), world[1]["exact"].out
    best = sorted(np.argsort(content["score"])[-2:])  # k = 0.5 of 5 bins is 2
    covered = [t for first, last in content["chosen"] for t in range(first, last + 1)]
    assert covered == [t for b in best for t in range(200 * b + 1, 200 * b + 201)]
    (first, last), *_ = read(world, "tight")["chosen"]
    assert first == last == 1 + int(np.argmax(read(world, "tight")["score"]))
    use = "timesteps=precomputed_topk timesteps.path=exact.json timesteps.k=0.5"
    assert "python -m ddiff.train experiment=digits_cfg 'net.channels=[8,16]' " in out
    assert use in out
    rows = [line for line in out.splitlines() if ".." in line]
    assert len(rows) == 10
    assert sum("100%" in row for row in rows) == 4
    run = world[1]["net"].out
    assert "experiment=digits_cfg" in run
    assert (
        "budget.max_steps=6 lr_schedule.warmup_steps=1 optimizer.lr=0.01 timesteps=precomputed_topk"
        in run
    )


def test_the_run_was_trained_by_the_scores(world: tuple[Path, dict[str, Done]]) -> None:
    saved = checkpoint(world[0] / "topk")
    score = saved["state_dict"]["timesteps.score"]
    assert score.tolist() == pytest.approx(read(world, "exact")["score"])
    assert saved["global_step"] == 2


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_a_line(name: str, world: tuple[Path, dict[str, Done]]) -> None:
    done, words = world[1][name], REFUSED[name][1]
    assert done.status in (1, 2)
    (line,) = done.err.splitlines()
    assert line.startswith("ddiff: ")
    assert [word for word in words if word not in line] == [], line


def test_refusals_leave_no_trace(world: tuple[Path, dict[str, Done]]) -> None:
    names = {"exact", "again", "last_layer", "proxy", "net", "loose", "tight"}
    files = {f"{name}.{ending}" for name in names for ending in ("json", "png")}
    broken = {CUT, NEGATIVE, NESTED, "folder.json"}
    assert {p.name for p in world[0].iterdir()} == {*files, *broken, "run", "topk", "a"}
    assert {p.name for p in (world[0] / "a/new/folder").iterdir()} == {"ema.json", "ema.png"}


def test_more_batches_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_batches: 4 is more than max_batches, 3"):
        check_numbers(composed("importance", "min_batches=4", "max_batches=3"))


def test_a_net_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    cfg = typed(Importance, composed("importance", *OPTIONS, *FEW, f"out={tmp_path}/scores.json"))
    subject = ScoredNet.of(cfg)
    for p in subject.module.net.parameters():
        p.data.fill_(torch.nan)
    with pytest.raises(DdiffError, match=r"score at t=101 is not a finite number \(float32\)"):
        measure(subject, cfg)


def test_errors_and_stretches_by_hand() -> None:
    each = torch.tensor([[1.0, 5.0, 0.0, 4.0, 9.0], [3.0, 5.0, 0.0, 8.0, 9.0]])
    scores = Scores(Bins(20, 5), each.double(), 1.0)
    assert scores.mean.tolist() == [2, 5, 0, 6, 9]
    assert scores.standard_error.tolist() == pytest.approx([1, 0, 0, 2, 0])
    assert scores.relative_error == pytest.approx(0.5)
    assert scores.chosen(1) == [(17, 20)]
    assert scores.chosen(0.6) == [(5, 8), (13, 20)]
    assert scores.chosen(5) == [(1, 20)]


def test_the_picture_shades_what_is_chosen() -> None:
    """The share of columns that are shaded is the share of timesteps that are chosen."""
    score = np.linspace(1, 2, 10)
    edges = np.arange(11) * 10

    def picture(*chosen: tuple[int, int]) -> np.ndarray:
        return score_picture("title", edges, score, 0.1 * score, chosen, "score").astype(int)

    def shaded(*chosen: tuple[int, int]) -> np.integer:
        different = np.abs(picture(*chosen) - picture())[60:290].sum(2) > 5
        return (different.mean(0) > 0.5).sum()

    assert shaded((1, 100)) > 600
    for chosen, share in ((((1, 50),), 0.5), (((11, 20), (91, 100)), 0.2)):
        assert shaded(*chosen) == pytest.approx(share * shaded((1, 100)), abs=4)
