"""Samples depend on (seed, index), not on the batch they are drawn in, but for rounding."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ddiff.backends import Compiled, Eager, Execution, Native
from ddiff.diffusion import ClassifierFree, Guidance, Step, objectives, schedules, solve, solvers
from ddiff.kernels import philox
from ddiff.kernels.solver_step import reference
from ddiff.sampling.conditions import labels_for, row_length
from ddiff.sampling.generation import Generation
from ddiff.system.errors import ConfigError
from ddiff.system.precision import Precision
from ddiff.system.random import key
from tests.support.runs import TINY, checkpoint, ddiff, ddiff_many, job, scalars
from tests.support.sampling import STEPS, generation, labels


class Shrink(nn.Module):
    """x_0 = 0.9 x_t + 0.05 y: elementwise, so that batches cannot differ by rounding; a net with
    sums can, see below."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(0.9))

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        shift = 0 if y is None else 0.05 * y.view(-1, *[1] * (x.dim() - 1))
        return self.p * x + shift


@pytest.mark.parametrize("shape", [(1, 6, 5), (1, 4, 3, 5)], ids=["2D", "3D"])
@pytest.mark.parametrize("solver", [solvers.ddpm, solvers.ddim, solvers.dpmpp_2m_sde])
def test_sample_17_is_the_same_in_any_batch(shape: tuple[int, ...], solver) -> None:
    generation = Generation(
        net=Shrink(),
        shape=shape,
        num_classes=3,
        objective=objectives.X0(),
        plan=solver(schedules.cosine(100), num_steps=7),
        guidance=ClassifierFree(1.5),
        precision=Precision("float32"),
        seed=3,
    )
    y = labels_for("each", 24, 3)
    at_once = torch.cat(list(generation.batches(24, 64, y)))
    in_fives = torch.cat(list(generation.batches(24, 5, y)))
    alone = generation.batch([17], y[17:18])
    assert torch.equal(at_once, in_fives)
    assert torch.equal(at_once[17:18], alone)
    assert not torch.equal(at_once[16], at_once[17])


@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_a_real_net_rounds_otherwise_in_another_batch_and_no_more(kind: str) -> None:
    """Sample 7 alone and among four: the same noise to the bit, the sample up to rounding. That is
    1e-4 in both backends in float32; eager bfloat16 differs by 0.01 on average, 0.1 at most (in 2D:
    many processors take 40 times as long for a bfloat16 convolution of volumes)."""
    y, rows = labels(kind, 12), range(5, 9)
    some, mine, next_one = (None if y is None else y[a:b] for a, b in ((5, 9), (7, 8), (8, 9)))
    noise = [philox.normal(3, torch.tensor(drawn), 4, (1, 9, 9)) for drawn in ([7], rows)]
    assert torch.equal(noise[0][0], noise[1][2])
    cases = [(Eager(), "float32", 1e-4, 1e-5), (Native(), "float32", 1e-4, 1e-5)]
    cases += [(Eager(), "bfloat16", 0.1, 0.01)] if kind == "2D" else []
    for backend, dtype, most, on_average in cases:
        g = generation(kind, "dpmpp_2m_sde", backend, precision=Precision(dtype))
        among, alone = g.batch(rows, some)[2], g.batch([7], mine)[0]
        off = (among - alone).abs()
        assert off.max() < most, (type(backend), dtype)
        assert off.mean() < on_average, (type(backend), dtype)
        assert (g.batch([8], next_one)[0] - alone).abs().max() > 0.5


class Averaged(Guidance):
    """Guidance that no backend knows: the mean of two predictions after the third step."""

    def __call__(self, net, x, t, y, step: Step) -> torch.Tensor:
        return net(x, t, y) if step.number <= 2 else (net(x, t, y) + net(x, t, None)) / 2


class FirstHalf(ClassifierFree):
    """Classifier-free guidance in the first half of the way."""

    def weights(self, plan) -> torch.Tensor:
        first = torch.arange(len(plan)) < len(plan) // 2
        return torch.where(first, super().weights(plan), 0.0)


@pytest.mark.parametrize("guidance", [Averaged(), FirstHalf(1.5)], ids=["own", "interval"])
@pytest.mark.parametrize("backend", [Native(), Eager(), Compiled()], ids=lambda b: b.name)
def test_every_backend_honours_a_guidance_of_ones_own(guidance, backend) -> None:
    y = labels("2D", 4)
    g = generation("2D", "dpmpp_2m", backend, guidance=guidance)
    if backend.name == "compiled":  # the compiler itself is tested elsewhere
        execution = Execution(g.net, solver_step=reference, static=True)
        g.__dict__["execution"] = execution
    wanted = generation("2D", "dpmpp_2m", Eager(), guidance=guidance)
    noise_key = key(wanted.seed, "sample")
    noise = lambda step: philox.normal(noise_key, torch.arange(4), step + 1, wanted.shape)  # noqa: E731
    *_, last = solve(
        wanted.net, wanted.plan, wanted.objective, noise(-1), noise, wanted.clamp, y, guidance
    )
    made = g.batch(range(4), y)
    assert (made - last.x).abs().max() < 1e-4
    plain = generation("2D", "dpmpp_2m", Eager(), guidance=ClassifierFree(0.0)).batch(range(4), y)
    assert (made - plain).abs().max() > 3e-3
    averaged = isinstance(guidance, Averaged)
    expected = 3 + 2 * (STEPS - 3) if averaged else 3 * (STEPS // 2)
    assert g.evaluations == expected  # counted, not told


@pytest.mark.slow
def test_guidance_combines_float32() -> None:
    """Two predictions in bfloat16 lose half of their digits where they are combined as such."""
    y = labels("2D", 4)
    bf16 = generation("2D", "ddim", Eager(), precision=Precision("bfloat16"))
    seen: list[torch.dtype] = []

    class Looking(ClassifierFree):
        def __call__(self, net, x, t, y, step: Step) -> torch.Tensor:
            seen.append(net(x, t, y).dtype)
            return super().__call__(net, x, t, y, step)

    for backend in (Eager(), Native()):
        options = {"precision": Precision("bfloat16"), "guidance": Looking(1.5)}
        made = generation("2D", "ddim", backend, **options).batch(range(4), y)
        assert (made - bf16.batch(range(4), y)).abs().mean() < 0.02
    assert set(seen) == {torch.float32}


def test_labels() -> None:
    assert labels_for("each", 6, 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert labels_for("auto", 3, 3).tolist() == [0, 1, 2]
    assert labels_for([2, 0], 5, 3).tolist() == [2, 0, 2, 0, 2]
    assert labels_for(1, 2, 3).tolist() == [1, 1]
    assert row_length(labels_for("each", 24, 6)) == 4
    assert row_length(labels_for("each", 3, 3)) is None  # a row of one is no row
    assert row_length(labels_for("each", 7, 3)) is row_length(None) is None
    assert labels_for("auto", 4, None) is None
    assert labels_for("none", 4, 3) is None
    for wrong in (3, -1, [0, 5], [], "two", 1.0, True):
        with pytest.raises(ConfigError, match=r"y: .*0\.\.2"):
            labels_for(wrong, 4, 3)


def test_the_sample_verb(tmp_path: Path) -> None:
    """Files of the right content; the run's own solver unless another is chosen."""
    train = ["experiment=digits_cfg", *TINY, "budget.max_steps=2", "run_dir=run", "precision=fp32"]
    three = ["experiment=voxel_baseline", *TINY, "budget.max_steps=2", "run_dir=solid"]
    three += ["data.size=16", "data.num=8", "net.patch_size=2"]
    done = ddiff_many(
        [
            job("train", *train),
            job("sample", "run=run", "num_samples=7", "batch_size=3", "out=a"),
            job("sample", "run=run", "num_samples=7", "batch_size=7", "out=b.npy"),
            job("sample", "run=run/checkpoints/best.ckpt", "solver=dpmpp_2m", "num_samples=2",
                "solver.num_steps=5", "guidance.scale=0", "y=3", "weights=net"),
            job("train", *three),
            job("sample", "run=solid", "num_samples=3", "out=solids", "mesh=obj"),
            job("view", "path=solids.npy"),
            job("view", "path=run"),
        ],
        tmp_path,
    )  # fmt: skip
    assert [(d.status, d.err) for d in done] == [(0, "")] * len(done)
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert a.shape == (7, 1, 8, 8)
    assert a.dtype == np.float32
    assert np.abs(a - b).max() < 1e-5
    assert np.abs(a).max() <= 1
    assert np.load(tmp_path / "run/samples/dpmpp_2m5_2.npy").shape == (2, 1, 8, 8)
    assert json.loads((tmp_path / "a.json").read_text())["y"] == [0, 1, 2, 4, 5, 7, 8]
    assert np.load(tmp_path / "solids.npy").shape == (3, 1, 16, 16, 16)
    names = {p.name for p in tmp_path.iterdir()}
    pictures = {
        f"{name}.{kind}" for name in ("a", "b", "solids") for kind in ("npy", "png", "json")
    }
    meshes = {"solids_0000.obj", "solids_0001.obj", "solids_0002.obj"}
    views = {"solids_view.png", "solids_view.html"}
    assert names == {"run", "solid"} | pictures | meshes | views


@pytest.mark.slow
def test_compiled_trains_and_samples_like_eager(tmp_path: Path) -> None:
    options = ["experiment=digits_cfg", *TINY, "budget.max_steps=3", "precision=fp32"]
    compiled = ["backend=compiled", "budget.val_every=1000"]
    done = ddiff_many(
        [
            job("train", *options, "run_dir=eager", "backend=eager"),
            job("train", *options, "run_dir=compiled", *compiled),
            job("sample", "run=eager", "num_samples=4", "out=a", "backend=eager"),
            job("sample", "run=compiled", "num_samples=4", "out=b", "backend=eager"),
            job("sample", "run=eager", "num_samples=4", "out=c", "backend=compiled"),
        ],
        tmp_path,
    )
    assert [d.status for d in done] == [0] * 5, [d.err for d in done]
    states = [checkpoint(tmp_path / name)["state_dict"] for name in ("eager", "compiled")]
    assert states[0].keys() == states[1].keys()
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    assert np.abs(a - c).max() < 1e-4
    assert np.abs(a - b).max() < 1e-2


@pytest.mark.slow
def test_two_ranks_make_one_run(tmp_path: Path) -> None:
    """Data-parallel on two CPU processes: one directory, one set of files, half the batch each,
    and a timestep sampler that has learned from the losses of both."""
    options = ["experiment=digits_ddpm", *TINY, "budget.max_steps=6", "trainer=cpu"]
    options += ["timesteps=stratified_importance", "timesteps.bins=3"]
    ranks = ["trainer.devices=2", "trainer.strategy=ddp"]
    done = ddiff("train", *options, *ranks, cwd=tmp_path)
    assert done.status == 0, done.err
    (run,) = (tmp_path / "runs/digits_ddpm").iterdir()
    saved = checkpoint(run)
    assert (saved["global_step"], saved["batches_seen"]) == (6, 2 * 6)  # of both ranks
    assert saved["state_dict"]["timesteps.average.seen"].sum() == 6 * 2 * 4
    assert len(scalars(run, "train/loss")) == 6
    assert np.load(run / "samples/step_000006.npy").shape == (2, 1, 8, 8)
    again = ddiff("train", f"ckpt_path={run}", "budget.max_steps=8", cwd=tmp_path)
    assert again.status == 0, again.err
    assert checkpoint(run)["global_step"] == 8
