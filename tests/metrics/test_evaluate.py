"""`python -m ddiff.evaluate` as a user meets it, and figures while training."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddiff.data import Digits
from tests.support.runs import TINY, Done, ddiff_many, job, scalars

CLASSIFIER = ("experiment=classifier", "budget.max_steps=200", "budget.val_every=200")
DIGITS = ("experiment=digits_cfg", *TINY, "budget.max_steps=2", "guidance.scale=1")
MEASURE = ("metrics=[fid,kid,labels,memorisation]", "metrics.fid.repeats=10")


def true_digits(folder: Path) -> None:
    data = Digits(8, 0)
    data.setup("fit")
    x, y = data.train.batch(torch.arange(0, 1600, 2))
    np.save(folder / "true.npy", x.numpy())
    (folder / "true.json").write_text(json.dumps({"y": y.tolist()}))
    np.save(folder / "unlabelled.npy", x.numpy())
    np.save(folder / "others.npy", data.train.batch(torch.arange(1, 1600, 2))[0].numpy())
    np.save(folder / "few.npy", x[:100].numpy())
    x[7, 0, 3, 3] = torch.nan
    np.save(folder / "nan.npy", x.numpy())
    np.save(folder / "wide.npy", np.zeros((9, 1, 8, 9)))
    np.save(folder / "far.npy", np.linspace(-40, 40, 640).reshape(10, 1, 8, 8))
    np.save(folder / "empty.npy", np.zeros((0, 1, 8, 8)))
    strangers_volumes(folder)


def strangers_volumes(folder: Path) -> None:
    """Soft balls of 0..1, one a file, and noisier ones in one array without a channel axis, of
    which a single value overshoots 0."""
    random = np.random.default_rng(0)
    axis = np.arange(12) - 5.5
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    balls = 1 / (1 + np.exp(distance - random.uniform(2, 5, (20, 1, 1, 1))))
    (folder / "balls").mkdir()
    for i, ball in enumerate(balls):
        np.save(folder / f"balls/vox_{i}.npy", ball.astype(np.float32))
    scale = np.linspace(0.02, 0.2, 20)[:, None, None, None]
    noisy = (balls + scale * random.normal(size=balls.shape)).clip(0, 1).astype(np.float32)
    noisy[0, 0, 0, 0] = -0.01
    np.save(folder / "noisy.npy", noisy)
    np.save(folder / "torn.npy", noisy - 0.1)


# name: (options, exit status, words that the line must hold)
MISTAKES = {
    "wrong shape": (["samples=wide.npy", "data=digits"], 1, ["[1, 8, 9]", "[1, 8, 8]"]),
    "wrong range": (["samples=far.npy", "data=digits"], 1, ["-40 to 40", "value_range="]),
    "NaN": (["samples=nan.npy", "data=digits"], 1, ["sample 7", "not finite"]),
    "empty": (["samples=empty.npy", "data=digits"], 1, ["is empty"]),
    "another number": (
        ["samples=few.npy", "reference=others.npy", "metrics=[pairs]"],
        2,
        ["(100)", "(800)", "nearest_pairs"],
    ),
    "of two ranges": (
        ["samples=torn.npy", "reference=balls"],
        1,
        ["torn.npy", "below -0.05", "value_range=signed or value_range=unit"],
    ),
    "absent": (["samples=nowhere.npy", "data=digits"], 1, ["nowhere.npy", "no such file"]),
    "nothing to measure": (["data=digits"], 2, ["run=", "samples="]),
    "both": (["samples=few.npy", "run=run"], 2, ["either run="]),
    "against nothing": (["samples=few.npy"], 2, ["data=", "reference="]),
    "no such metric": (["samples=few.npy", "data=digits", "metrics=[fit]"], 2, ["metrics", "fid"]),
    "a metric of volumes": (
        ["samples=few.npy", "data=digits", "metrics=[sets]"],
        2,
        ["sets", "needs volumes"],
    ),
    "no classifier": (
        ["samples=few.npy", "data=digits", "metrics=[fid]", "runs=elsewhere"],
        2,
        ["elsewhere", "experiment=classifier"],
    ),
    "a diffusion model as classifier": (
        ["samples=few.npy", "data=digits", "metrics=[fid]", "extractor.run=run"],
        2,
        ["is no classifier"],
    ),
    "samples of a classifier": (["run=runs/classifier/a"], 1, ["is a classifier"]),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    """A classifier, a run, a stranger's files, and what evaluate said of them."""
    cwd = tmp_path_factory.mktemp("evaluate")
    true_digits(cwd)
    run = ("run=run", "num_samples=30", *MEASURE)
    jobs = {
        "classifier": job("train", *CLASSIFIER, "run_dir=runs/classifier/a"),
        "run": job("train", *DIGITS, "run_dir=run"),
        "first": job("evaluate", *run),
        "again": job("evaluate", *run),
        "other seed": job("evaluate", *run, "seed=1"),
        "true": job("evaluate", "samples=true.npy", "data=digits", *MEASURE),
        "unlabelled": job("evaluate", "samples=unlabelled.npy", "data=digits"),
        "paired": job("evaluate", "samples=true.npy", "reference=unlabelled.npy",
                      "out=paired.json"),
        "pairs of others": job(
            "evaluate", "samples=true.npy", "reference=others.npy", "metrics=[pairs]",
            "out=others.json"),
        "volumes": job("evaluate", "samples=noisy.npy", "reference=balls", "metrics=[pairs]"),
        "declared": job(
            "evaluate", "samples=noisy.npy", "reference=balls", "metrics=[pairs]",
            "value_range=unit", "out=declared.json"),
        "one centre": job(
            "evaluate", "samples=balls", "data=spheres", "data.size=12", "data.num=500",
            "data.centre=fixed", "metrics=[memorisation]"),
        "examined": job("train", *DIGITS, "run_dir=examined", "evaluation.every=1",
                        "evaluation.num_samples=10", *MEASURE[:1]),
        "refused": job("train", *DIGITS, "run_dir=refused", "evaluation.every=1", "metrics=[fid]",
                       "runs=elsewhere"),
    }  # fmt: skip
    jobs |= {name: job("evaluate", *options) for name, (options, _, _) in MISTAKES.items()}
    done = ddiff_many(list(jobs.values()), cwd)
    return cwd, dict(zip(jobs, done, strict=True))


def figures(path: Path) -> dict[str, dict]:
    return {f["name"]: f for f in json.loads(path.read_text())["figures"]}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, bench: tuple[Path, dict[str, Done]]) -> None:
    _, status, words = MISTAKES[name]
    done = bench[1][name]
    line = done.err.removesuffix("\n")
    assert (done.status, "\n" in line) == (status, False), done.err
    assert line.startswith("ddiff: ")
    for word in words:
        assert word in line


def test_the_classifier_reads(bench: tuple[Path, dict[str, Done]]) -> None:
    cwd, done = bench
    assert (done["classifier"].status, done["classifier"].err) == (0, "")
    metrics = json.loads((cwd / "runs/classifier/a/metrics.json").read_text())
    assert metrics["val/accuracy"] > 0.9
    assert "timesteps" not in metrics


def test_a_run_is_measured_and_remembers(bench: tuple[Path, dict[str, Done]]) -> None:
    cwd, done = bench
    assert [(done[n].status, done[n].err) for n in ("first", "again", "other seed")] == [
        (0, "")
    ] * 3
    path = cwd / "run/evaluations/ddim2_w1_30.json"
    found, figure = json.loads(path.read_text()), figures(path)
    assert found["step"] == 2
    assert found["images_seen"] == 8
    assert found["train_seconds"] > 0
    assert found["sampling"]["evaluations"] == 4  # two steps, each of two halves
    assert figure["fid"]["value"] > 1
    assert figure["fid"]["low"] < figure["fid"]["value"] < figure["fid"]["high"]
    assert 0 <= figure["accuracy"]["value"] <= 1
    assert figure["accuracy"]["n"] == 30
    assert "classifier of Digits" in figure["fid"]["protocol"]["extractor"]
    assert figure["closer_to_train"]["protocol"]["distance"] == "root mean square of pixels"
    assert "accuracy" in done["first"].out
    board = EventAccumulator(str(cwd / "run/tensorboard")).Reload()
    tag = "evaluate/ddim2_w1_30/fid"
    assert [e.value for e in board.Scalars(tag)][-1] == pytest.approx(figure["fid"]["value"])

    assert "there already" in done["again"].out
    assert "there already" not in done["first"].out + done["other seed"].out
    assert len(list((cwd / "data/features").glob("*.npz"))) == 1  # of the training set
    seeded = figures(cwd / "run/evaluations/ddim2_w1_seed1_30.json")
    assert seeded["fid"]["value"] != figure["fid"]["value"]


def test_a_strangers_true_digits_are_good(bench: tuple[Path, dict[str, Done]]) -> None:
    cwd, done = bench
    assert (done["true"].status, done["true"].err) == (0, "")
    true, run = (
        figures(cwd / "true.evaluation.json"),
        figures(cwd / "run/evaluations/ddim2_w1_30.json"),
    )
    assert true["fid"]["value"] < run["fid"]["value"] / 20
    assert abs(true["kid"]["value"]) < run["kid"]["value"] / 20
    assert true["accuracy"]["value"] > 0.9
    assert true["closer_to_train"]["value"] > 0.95  # they are the training set's own
    assert true["fid"]["protocol_id"] != run["fid"]["protocol_id"]  # 800 samples, not 30


def test_auto_leaves_out_what_does_not_suit(bench: tuple[Path, dict[str, Done]]) -> None:
    cwd, done = bench
    found = json.loads((cwd / "unlabelled.evaluation.json").read_text())
    names = {f["name"] for f in found["figures"]}
    assert {"fid", "recall", "class_variation", "nearest_ssim", "nearest_train"} <= names
    assert "accuracy" not in names
    assert set(found["omitted"]) == {
        "conditions",
        "ensembles",
        "pairs",
        "pieces",
        "sets",
        "solid_fit",
        "sphere_law",
    }
    assert "left out" in done["unlabelled"].out


def test_pairs_by_index(bench: tuple[Path, dict[str, Done]]) -> None:
    cwd, _ = bench
    same, others = figures(cwd / "paired.json"), figures(cwd / "others.json")
    assert same["ssim"]["value"] == pytest.approx(1)
    assert same["psnr"]["value"] == float("inf")
    assert others["ssim"]["value"] < 0.3
    a, b = np.load(cwd / "true.npy"), np.load(cwd / "others.npy")
    assert same["psnr_mean"]["value"] == float("inf")
    assert same["psnr_mean"]["low"] is None
    assert others["psnr"]["value"] == pytest.approx(-10 * np.log10(np.mean((a - b) ** 2) / 4))


def test_a_strangers_volumes_are_measured_as_scikit_image_would(
    bench: tuple[Path, dict[str, Done]],
) -> None:
    """[N, D, H, W] of 0..1 with one negative value, against a folder of volumes."""
    cwd, done = bench
    assert [(done[n].status, done[n].err) for n in ("volumes", "declared")] == [(0, "")] * 2
    found = figures(cwd / "noisy.evaluation.json")
    ours = np.load(cwd / "noisy.npy").clip(0, 1).astype(np.float64)
    real = [np.load(cwd / f"balls/vox_{i}.npy").astype(np.float64) for i in range(20)]
    pairs = list(zip(ours, real, strict=True))
    decibels = [peak_signal_noise_ratio(b, a, data_range=1) for a, b in pairs]
    similarity = [
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
        )
        for a, b in pairs
    ]
    error = np.mean((ours - np.stack(real)) ** 2)
    assert found["psnr"]["value"] == pytest.approx(-10 * np.log10(error), abs=1e-5)
    assert found["psnr_mean"]["value"] == pytest.approx(np.mean(decibels), abs=1e-5)
    assert found["psnr_mean"]["value"] > found["psnr"]["value"] + 1
    assert found["ssim"]["value"] == pytest.approx(np.mean(similarity), abs=1e-6)
    assert found["ssim"]["protocol"]["intensities"] == "0..1"
    (line,) = [line for line in done["volumes"].out.splitlines() if line.startswith("samples ")]
    for words in ("0..1 (unit)", "value_range=", "1 of 34560", "-0.01"):
        assert words in line
    read_as = json.loads((cwd / "noisy.evaluation.json").read_text())["read_as"]
    assert set(read_as) == {"samples", "reference"}
    assert figures(cwd / "declared.json") == found


def test_memory_that_cannot_be_told_is_said(bench: tuple[Path, dict[str, Done]]) -> None:
    cwd, done = bench
    assert (done["one centre"].status, done["one centre"].err) == (0, "")
    found = json.loads((cwd / "balls.evaluation.json").read_text())
    assert {f["name"] for f in found["figures"]} == {
        "nearest_train", "nearest_train_of_held_out", "held_out_copies"
    }  # fmt: skip
    assert found["omitted"]["closer_to_train"].startswith("cannot tell: 100 of 100 held-out")
    assert "left out    closer_to_train: cannot tell" in done["one centre"].out
    assert "held_out_copies" in done["one centre"].out


def test_figures_while_training(bench: tuple[Path, dict[str, Done]]) -> None:
    cwd, done = bench
    assert (done["examined"].status, done["examined"].err) == (0, "")
    steps = sorted(p.name for p in (cwd / "examined/evaluations").iterdir())
    assert steps == ["step_000001.json", "step_000002.json"]
    found = json.loads((cwd / "examined/evaluations/step_000002.json").read_text())
    assert (found["step"], found["images_seen"]) == (2, 8)
    fid = {f["name"]: f["value"] for f in found["figures"]}["fid"]
    assert scalars(cwd / "examined", "quality/fid")[2] == pytest.approx(fid)
    assert done["refused"].status == 2
    assert "experiment=classifier" in done["refused"].err
    assert not (cwd / "refused").exists()  # said before anything was trained or written


STREAM = """
import resource, sys
import numpy as np, torch
from pathlib import Path
from ddiff.data import Spheres
from ddiff.metrics import FID, SphereLaw
from ddiff.metrics.figures import Case
from ddiff.data.opening import opened

class Means:
    name, labels, at_once = "means", False, 1000
    def __call__(self, x):
        return x.mean((2, 3)), x.mean((2, 3))

torch.set_num_threads(1)
images, volumes = opened("images.npy", values="unit"), None
torch.zeros(1000, 1000) @ torch.zeros(1000, 1000)
status = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
limit = int(status["VmData"].split()[0]) * 1024 + 600 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
case = Case(images, None, images, Means)
assert FID(repeats=0)(case)[0].value < 1e-9
data = Spheres(8, 0, size=32, num=8, num_val=8, centre="fixed")
data.setup("fit")
volumes = opened("volumes.npy", values="signed")
figures = SphereLaw()(Case(volumes, None, volumes, Means, data))
assert figures[0].n == 10_000 and figures[0].value == 0
"""


@pytest.mark.slow
def test_many_samples_in_bounded_memory(tmp_path: Path) -> None:
    """50,000 images and 10,000 volumes, 600 MB and 1.3 GB, under 600 MiB of memory."""
    for name, shape in {"images": (50_000, 3, 32, 32), "volumes": (10_000, 1, 32, 32, 32)}.items():
        np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", np.float32, shape).flush()
    done = subprocess.run(
        [sys.executable, "-c", STREAM], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
