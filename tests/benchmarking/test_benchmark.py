"""The benchmark: like against like, honest arithmetic, and rows that say why they cannot run."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from ddiff.backends import Eager
from ddiff.benchmarking import (
    Choice,
    Contest,
    Contestant,
    NetUnderTest,
    Row,
    checked,
    race,
    sampling,
    training,
)
from ddiff.benchmarking.plot import picture
from ddiff.benchmarking.racing import Memory
from ddiff.benchmarking.report import table, troubles
from ddiff.benchmarking.sampling import EAGER, FP32, Sampling, closeness
from ddiff.benchmarking.training import ALIKE, Training
from ddiff.diffusion import solve
from ddiff.kernels import philox
from ddiff.system.errors import DdiffError
from ddiff.system.random import generator, key
from tests.support.runs import TINY, Done, ddiff_many, job

CPU = torch.device("cpu")
OPTIONS = ("experiment=digits_cfg", *TINY, "trainer=cpu")
SMALL = ("num_steps=3", "repeats=2", "batch_sizes=[2]")
BF16 = Choice("bf16", DictConfig({**FP32.node, "dtype": "bfloat16"}))


class Ticking:
    """Contestants whose work takes the seconds that they were told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.order: list[str] = []
        monkeypatch.setattr("ddiff.benchmarking.racing.now", lambda device: self.now)

    def contestant(self, name: str, build: float, *seconds: float) -> Contestant:
        left = iter(seconds)

        def run() -> Tensor:
            self.order.append(name)
            self.now += next(left)
            return torch.tensor(float(len(self.order)))

        def built() -> Any:
            self.now += build
            return run

        return Contestant(name, "fp32", built)


def contest(*contestants: Contestant, batch_size: int = 1) -> Contest:
    return Contest("of clocks", {}, batch_size, contestants, lambda made: [{} for _ in made])


@pytest.fixture(scope="module")
def subject() -> NetUnderTest:
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = compose("benchmark", [*OPTIONS])
    return NetUnderTest.of(checked(cfg, ()), ())


def test_rows_run_in_turn_and_ratios_are_taken_within_a_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Ticking(monkeypatch)
    # build, cold, warm, three rounds: the machine is slow in the second for both
    a = world.contestant("a", 0, 9, 1, 4, 40, 4)
    b = world.contestant("b", 5, 3, 1, 2, 10, 1)
    one = contest(a, b, batch_size=4)
    first, second = race(one, 3, CPU)
    assert world.order == ["a", "a", "b", "b", *["a", "b"] * 3]
    assert (first.seconds, second.seconds) == ([4, 40, 4], [2, 10, 1])
    assert first.ratios == [1, 1, 1]
    assert second.ratios == [2, 4, 4]
    assert second.ratio == 4  # medians over rounds would say 4 / 2
    assert second.quartiles == (1.5, 2, 6)
    assert second.per_sample == (0.375, 0.5, 1.5)
    assert second.rate == 2
    assert second.cold_start == 5 + 3 - 2
    assert second.plain()["speed_up"] == {"median": 4, "all": [2, 4, 4]}
    assert second.last == 10  # of its very last run
    assert table([first, second])[1][1] == [
        "b", "fp32", "500", "375 to 1500", "2.00", "4.00x", "6.0 s", *table([second])[1][0][7:],
    ]  # fmt: skip


@pytest.mark.slow
def test_what_cannot_run_is_a_row_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Ticking(monkeypatch)

    def missing() -> Any:
        raise DdiffError("a library\nis missing")

    def infinite() -> Any:
        return lambda: torch.tensor([1.0, float("inf")])

    runs = iter([None, None, RuntimeError("out of memory\nsecond line")])

    def late() -> Tensor:
        if error := next(runs):
            raise error
        return torch.zeros(1)

    rows = [
        world.contestant("a", 0, *[1] * 4),
        Contestant("b", "fp32", missing),
        Contestant("c", "fp32", infinite),
        Contestant("d", "fp32", lambda: late),
        world.contestant("e", 0, *[2] * 4),
    ]
    found = race(contest(*rows), 2, CPU)
    assert [row.trouble for row in found] == [
        None,
        "a library is missing",
        "it makes numbers that are not finite",
        "RuntimeError: out of memory",
        None,
    ]
    assert found[4].ratio == 0.5
    assert found[1].plain()["cannot_run"] == "a library is missing"
    header, lines = table(found)
    assert lines[1] == ["b", "fp32", "cannot run", *["-"] * (len(header) - 3)]
    assert troubles([*found, found[1]]) == [
        "cannot run  b fp32, b fp32: a library is missing",
        "cannot run  c fp32: it makes numbers that are not finite",
        "cannot run  d fp32: RuntimeError: out of memory",
    ]
    with pytest.raises(DdiffError, match="is missing"):  # nothing to measure the others by
        race(contest(*rows[1:]), 2, CPU)


def test_graphs_of_the_compiler_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter([10, 13, 14, 14, 14, 14, 15])  # before, first run, warm-up, two rounds
    monkeypatch.setattr("ddiff.benchmarking.racing.compilations", lambda: next(made))
    world = Ticking(monkeypatch)
    (row,) = race(contest(world.contestant("a", 0, *[1] * 4)), 2, CPU)
    assert (row.graphs, row.recompiles) == (3, 2)


def test_memory_of_a_run_is_what_it_raises() -> None:
    kept = torch.ones(2**23)  # 32 MB that are there before
    _, found = Memory(CPU, 0).peak_of(lambda: (torch.ones(2**24) + kept.sum()).sum())
    assert 2 * 64 - 1 <= found["resident"] / 2**20 <= 2 * 64 + 16  # the kernel counts in batches


def test_closeness_by_hand() -> None:
    a, b = torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.2, 0.0], [0.0, 0.0]]]])
    found = closeness(b, a)
    assert found["psnr"] == pytest.approx(10 * np.log10(2**2 / (0.2**2 / 4)), abs=1e-4)
    assert found["max_error"] == pytest.approx(0.2)
    assert closeness(a, a) == {"psnr": None, "max_error": 0.0}


def test_the_first_row_is_plain_eager(
    subject: NetUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `solve` makes of torch's noise, without the backends' loop, in float32."""
    target = "ddiff.diffusion.solvers.ddpm"
    node = DictConfig({"_target_": target, "_partial_": True, "num_steps": 3})
    work = Sampling(subject, Choice("ddpm", node), 2)
    (one,) = sampling.contests(subject, [work.solver], [2], [EAGER], [FP32, BF16])
    names = [(row.backend, row.precision) for row in one.contestants]
    assert names == [("plain eager", "fp32"), ("eager", "fp32"), ("eager", "bf16")]
    monkeypatch.setattr(Eager, "execution", None)
    run = one.contestants[0].build()
    torch.manual_seed(3)
    made = run()
    torch.manual_seed(3)
    x = torch.randn(2, 1, 8, 8)
    y, w = torch.tensor([0, 5]), subject.options.guidance.scale
    net = subject.trained.net

    def predict(x: Tensor, t: Tensor, _: Tensor | None) -> Tensor:
        return (1 + w) * net(x, t, y) - w * net(x, t, torch.full_like(y, -1))

    plan = work.generation(EAGER, FP32).plan

    def noise(step: int) -> Tensor:
        return torch.randn_like(x)

    *_, last = solve(predict, plan, subject.trained.objective, x, noise, 1.0)
    assert made.dtype == torch.float32
    assert torch.allclose(made, last.x, atol=1e-5)


def test_fresh_nets_have_no_layer_that_hides_the_others(subject: NetUnderTest) -> None:
    assert all(bool(parameter.any()) for parameter in subject.trained.net.parameters())


def bare_loss(subject: NetUnderTest, work: Training) -> float:
    """The last loss of the same steps, written out: AdamW, v, labels dropped, clipping."""
    seed, T = subject.options.seed, subject.trained.schedule.T
    x_0, y = work.batch()
    assert y is not None
    net = copy.deepcopy(subject.trained.net).requires_grad_(True)
    optimizer = torch.optim.AdamW(net.parameters(), **{
        k: v for k, v in subject.options.optimizer.items() if k not in ("_target_", "_partial_")
    })  # fmt: skip
    loss = torch.zeros(())
    for step in range(ALIKE):
        words = (seed, "train", 0, step)
        g = generator("cpu", *words)
        t = torch.randint(1, T + 1, (len(x_0),), generator=g)
        eps = philox.normal(key(*words), torch.arange(len(x_0)), 0, (1, 8, 8))
        dropped = torch.rand(len(y), generator=g) < subject.options.module.p_uncond
        a = subject.trained.schedule.abar[t].float().sqrt()[:, None, None, None]
        s = (1 - a**2).sqrt()
        pred = net(a * x_0 + s * eps, t - 1, torch.where(dropped, -1, y))
        loss = (pred - (a * eps - s * x_0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return loss.item()


def test_training_steps_agree_with_a_bare_loop(subject: NetUnderTest) -> None:
    work = Training(subject, 4)
    timed = work.steps(EAGER, FP32)
    for _ in range(3):  # what was timed before leaves no trace
        timed()
    rows = [Row("eager", "fp32", 4, run=timed),
            Row("eager", "bf16", 4, run=work.steps(EAGER, BF16))]  # fmt: skip
    same, bf16 = work.judge(rows)
    assert same["loss"] == pytest.approx(bare_loss(subject, work), rel=1e-5)
    assert same["loss_difference"] == 0
    assert bf16["loss_difference"] == pytest.approx(
        abs(float(bf16["loss"] or 0) - float(same["loss"] or 0)) / float(same["loss"] or 0)
    )
    assert 0 < float(bf16["loss_difference"] or 0) < 0.05


def test_an_untrainable_row_of_training(subject: NetUnderTest) -> None:
    with pytest.raises(DdiffError, match="exported"):
        training.contests(subject, [2], ["model.onnx"], [FP32])
    (one,) = training.contests(subject, [2], [EAGER], [FP32, BF16])
    names = [(row.backend, row.precision) for row in one.contestants]
    assert names == [("eager", "fp32"), ("eager", "bf16")]  # the first row is not run twice


def test_a_picture_of_every_kind_of_row() -> None:
    rows = [
        SimpleNamespace(backend=name, precision="fp32", ratio=2.0, per_sample=(0.9, 1.0, 1.2),
                        fidelity=fidelity, trouble=trouble)
        for name, trouble, fidelity in (
            ("plain eager", None, {}), ("eager", None, {"psnr": None, "max_error": 0.0}),
            ("native", None, {"psnr": 80.0, "max_error": 0.1}), ("tensorrt", "not here", {}))
    ]  # fmt: skip
    groups: Any = [(contest(), rows), (contest(), rows[:1]), (contest(), rows)]
    image = picture("a net", "a machine", "of decibels", groups)
    assert image.dtype == np.uint8
    colours = {tuple(pixel) for pixel in image.reshape(-1, 3)[::7].tolist()}
    assert {(0x8C, 0x8F, 0x99), (0x3B, 0x74, 0xD6), (0xE0, 0x7B, 0x39)} <= colours


JOBS = {
    "run": job("train", *OPTIONS, "budget.max_steps=2", "run_dir=run"),
    "of a run": job("benchmark", "run=run", *SMALL, "backends=[eager,eager+graph,tensorrt]",
                    "solvers=[ddim+eta:1,dpmpp_2m]", "accelerator=cpu", "seed=5",
                    "guidance.scale=1.5", "out=one"),
    "of training": job("benchmark", *OPTIONS, "mode=train", "backends=[eager,tensorrt]", *SMALL),
}  # fmt: skip
MISTAKES = {
    "backend": (["backends=[eagr]"], ["backend", "'eager'"]),
    "option": (["backends=[eager+grph]"], ["backend.grph", "'backend.graph'"]),
    "precision": (["precisions=[fp32+tf32:much]"], ["precision.tf32", "'much'", "true or false"]),
    "not a list": (["backends=native"], ["backends", "a list"]),
    "one word": (["backend=native"], ["backends=[...]"]),
    "batch": (["batch_sizes=[0]"], ["batch_sizes", "less than 1"]),
    "mode": (["mode=learn"], ["mode", "sample, train"]),
    "steps": ([*OPTIONS, "num_steps=5000"], ["num_steps", "5000"]),
    "classifier": (["experiment=classifier", "data=digits"], ["classifier"]),
    "net of a run": (["run=run", "net.dropout=0.1"], ["net=", "as it was trained"]),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    cwd = tmp_path_factory.mktemp("benchmark")
    wrong = [job("benchmark", *words) for words, _ in MISTAKES.values()]
    done = ddiff_many([*JOBS.values(), *wrong], cwd)
    return cwd, dict(zip([*JOBS, *MISTAKES], done, strict=True))


@pytest.mark.slow
def test_a_run_over_backends_and_solvers(world: tuple[Path, dict[str, Done]]) -> None:
    cwd, done = world
    assert done["of a run"].err == ""
    out = done["of a run"].out
    assert "ddim+eta:1, 3 steps, batch 2, guidance 1.5" in out
    assert "needs Torch-TensorRT" in out
    with Image.open(cwd / "one/benchmark.png") as image:
        assert image.width > 800
    found = json.loads((cwd / "one/benchmark.json").read_text())
    assert found["options"]["seed"] == found["config"]["seed"] == 5
    assert [c["solver"] for c in found["contests"]] == ["ddim+eta:1", "dpmpp_2m"]
    assert found["environment"]["threads"] == 1
    for one in found["contests"]:
        rows = {(row["backend"], row["precision"]): row for row in one["rows"]}
        assert next(iter(rows)) == ("plain eager", "fp32")
        assert len(rows) == 7
        assert rows["eager", "fp32"]["fidelity"] == {"psnr": None, "max_error": 0.0}
        assert rows["eager", "bf16"]["fidelity"]["psnr"] > 40
        assert rows["eager", "bf16"]["fidelity"]["max_error"] > 0
        assert "needs a GPU" in rows["eager+graph", "bf16"]["cannot_run"]
        first, second = rows["plain eager", "fp32"], rows["eager", "bf16"]
        pairs = zip(first["seconds"]["all"], second["seconds"]["all"], strict=True)
        assert second["speed_up"]["all"] == [a / b for a, b in pairs]
        assert len(second["seconds"]["all"]) == 2


@pytest.mark.slow
def test_training(world: tuple[Path, dict[str, Done]]) -> None:
    cwd, done = world
    assert done["of training"].err == ""
    (path,) = (cwd / "benchmarks/digits_cfg").glob("*/benchmark.json")
    ((one,), facts) = json.loads(path.read_text())["contests"], json.loads(path.read_text())
    rows = {(row["backend"], row["precision"]): row for row in one["rows"]}
    assert rows["eager", "fp32"]["fidelity"]["loss_difference"] == 0
    assert "cannot train" in rows["tensorrt", "fp32"]["cannot_run"]
    assert facts["step"] == 0
    assert (path.with_name("benchmark.png")).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_one_line_says_it(name: str, world: tuple[Path, dict[str, Done]]) -> None:
    done = world[1][name]
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    assert [word for word in MISTAKES[name][1] if word not in lines[0]] == [], lines[0]
    assert done.status == 2
