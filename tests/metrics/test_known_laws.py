"""On true samples every metric says so; on wrong, blurred and collapsed ones too."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ddiff.data import Digits, Shapes, Spheres
from ddiff.data.opening import Array, Stack
from ddiff.data.spheres import SphereSource
from ddiff.metrics import FID, KID, Labels, Memorisation, Pieces, PrecisionRecall, Sets, SphereLaw
from ddiff.metrics.by_volumes import SolidFit
from ddiff.metrics.features import Extractor
from ddiff.metrics.figures import Case, Figure, Omitted
from ddiff.system.errors import DdiffError

SIZE, N = 24, 150


def nothing() -> Extractor:
    raise DdiffError("no classifier")


def spheres(seed: int, num: int = 400, **options) -> Spheres:
    data = Spheres(8, seed, **{"size": SIZE, "num": num, "num_val": N, "centre": "fixed"} | options)
    data.setup("fit")
    return data


def case(samples: np.ndarray, data, make_extractor: Callable[[], Extractor] = nothing, y=None):
    stack = Stack(Array(samples, Path("samples"), "signed", y), "samples")
    return Case(
        stack, Stack(data.train, "train"), Stack(data.val, "held out"), make_extractor, data
    )


def figures(metric, a_case: Case) -> dict[str, float]:
    assert metric.obstacle(a_case) is None
    return {f.name: f.value for f in metric(a_case) if isinstance(f, Figure)}


def drawn(seed: int, n: int = N, **options) -> np.ndarray:
    return Stack(spheres(seed, **options).train, "other").first(n).numpy()


@pytest.mark.parametrize("centre", ["fixed", "random"])
def test_true_spheres_pass_every_test(centre: str) -> None:
    truth = case(drawn(1, centre=centre), spheres(0, centre=centre))
    law = figures(SphereLaw(), truth)
    assert law["validity"] == 1
    assert law["sphere_iou"] > 0.97
    assert law["radius_p"] > 0.001
    if centre == "fixed":
        assert law["centre_offset"] < 0.05  # voxels
    else:
        assert law["centre_p"] > 0.001
    sets = figures(Sets(points=64), truth)
    for distance in ("iou", "chamfer"):
        assert abs(sets[f"one_nn_{distance}"] - 0.5) < 0.12  # four deviations of 300 coin flips
        assert sets[f"coverage_{distance}"] > 0.45
    assert figures(Pieces(), truth)["one_piece"] == 1
    assert figures(Pieces(), truth)["volume_p"] > 0.001
    if centre == "random":
        memory = figures(Memorisation(), truth)
        assert 0.35 < memory["closer_to_train"] < 0.65
        assert memory["held_out_copies"] < 0.05


def test_where_the_training_set_holds_everything_memory_cannot_be_told() -> None:
    """Radii about one centre make few different volumes, and the training set holds them all."""
    data = spheres(0)
    for samples in (Stack(data.train, "train").first(N).numpy(), drawn(1)):  # copies, fresh ones
        verdict, *found = Memorisation()(case(samples, data))
        assert isinstance(verdict, Omitted)
        assert verdict.name == "closer_to_train"
        assert verdict.why.startswith(f"cannot tell: {N} of {N} held-out samples equal a training")
        share = next(f for f in found if f.name == "held_out_copies")  # type: ignore[union-attr]
        assert (share.value, share.high) == (1, 1)  # type: ignore[union-attr]


def test_a_few_copies_among_the_held_out_leave_a_verdict() -> None:
    data = spheres(0, centre="random")
    a_case = case(Stack(data.train, "train").first(N).numpy(), data)
    held_out = a_case.held_out.first(N).numpy()
    for copied, told in ((N // 10, True), (N // 10 + 1, False)):
        mixed = np.concatenate([a_case.train.first(copied).numpy(), held_out[copied:]])  # type: ignore[arg-type]
        stack = Stack(Array(mixed, Path("held out"), "signed"), "held out")
        found = figures(Memorisation(), replace(a_case, held_out=stack))
        assert found["held_out_copies"] == copied / N
        assert ("closer_to_train" in found) == told
        if told:  # a copy ties with a held-out copy: 1 - 0.1 / 2
            assert found["closer_to_train"] == pytest.approx(0.95)


def test_what_copies_would_score_is_said_where_few_training_samples_are_looked_through() -> None:
    """A quarter of 400: other copies are as far away as fresh samples, 0.25 + 0.75 / 2 in all."""
    data = spheres(0, centre="random")
    copies = case(Stack(data.train, "train").first(400).numpy(), data)
    verdict, *_ = Memorisation(most_train=100)(copies)
    assert isinstance(verdict, Figure)
    assert verdict.protocol["copies_score"] == pytest.approx(0.625, abs=0.01)
    assert verdict.value == pytest.approx(0.625, abs=0.08)
    everything, *_ = Memorisation()(copies)
    assert isinstance(everything, Figure)
    assert everything.value > 0.99


@pytest.mark.parametrize("law", ["a corner", "gathered", "one axis"])
def test_a_wrong_law_of_the_centre_is_seen(law: str) -> None:
    """Valid spheres with radii of the right law, whose centres are not uniform in their room."""
    data = spheres(0, centre="random", num=N)
    wrong = spheres(1, centre="random", num=N)
    source = wrong.train
    assert isinstance(source, SphereSource)
    middle = (SIZE - 1) / 2
    offset = source.centre - middle
    if law == "a corner":
        source.centre = middle + offset.abs()
    elif law == "gathered":
        source.centre = middle + 0.6 * offset
    else:
        source.centre[:, 1] = middle + offset[:, 1].abs()
    found = figures(SphereLaw(), case(Stack(source, "wrong").first(N).numpy(), data))
    assert found["validity"] == 1
    assert found["radius_p"] > 0.001
    assert found["centre_p"] < 1e-4
    assert found["centre_d"] > 0.15


def test_a_wrong_law_of_the_radius_is_seen() -> None:
    narrow = case(drawn(1, radius_min=0.15, radius_max=0.225), spheres(0))
    law = figures(SphereLaw(), narrow)
    assert law["validity"] == 1
    assert law["radius_p"] < 1e-4
    assert figures(Pieces(), narrow)["volume_p"] < 0.01


def test_centres_off_the_middle_are_seen() -> None:
    data = spheres(0)
    wandering = case(drawn(1, centre="random"), data)
    assert figures(SphereLaw(), wandering)["centre_offset"] > 2
    assert figures(Sets(points=64), wandering)["one_nn_iou"] > 0.9


def test_torn_and_empty_volumes_are_seen() -> None:
    random = np.random.default_rng(0)
    noise = random.choice([-1.0, 1.0], (N, 1, SIZE, SIZE, SIZE)).astype(np.float32)
    torn = np.where(random.uniform(size=noise.shape) < 0.3, noise, drawn(1))
    broken = case(torn, spheres(0))
    assert figures(SphereLaw(), broken)["validity"] == 0
    assert figures(Pieces(), broken)["surface_p"] < 1e-6
    assert figures(Sets(points=64), broken)["one_nn_iou"] > 0.7
    empty = figures(SphereLaw(), case(-np.ones_like(torn), spheres(0)))
    assert empty == {"validity": 0, "sphere_iou": 0}


def test_collapse_and_copies_are_seen() -> None:
    data = spheres(0, centre="random")
    one = case(np.repeat(drawn(1, 1, centre="random"), N, 0), data)
    assert figures(Sets(points=64), one)["coverage_iou"] < 0.05
    assert figures(Sets(points=64), one)["one_nn_iou"] > 0.95
    copies = case(Stack(data.train, "train").first(N).numpy(), data)
    assert figures(Memorisation(), copies)["closer_to_train"] > 0.99


def test_solids_fit_their_own_kind_only() -> None:
    data = Shapes(8, 0, size=32, num=24, num_val=24)
    data.setup("fit")
    x, y = data.train.batch(torch.arange(10))
    assert y is not None
    asked = figures(SolidFit(), case(x.numpy(), data, y=y))
    assert asked["validity"] > 0.8
    wrong = torch.where(y < 5, (y + 1) % 5, y)
    assert figures(SolidFit(), case(x.numpy(), data, y=wrong))["validity"] < 0.4


class Blocks:
    """Means of 2 x 2 blocks as features; the first ten of them as logits of digits."""

    name, labels, at_once = "blocks", True, 100

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.nn.functional.avg_pool2d(x, 2).flatten(1)
        return features, features[:, :10]


def test_images_by_their_features() -> None:
    data = Digits(8, 0)
    data.setup("fit")
    order = torch.randperm(1600, generator=torch.Generator().manual_seed(0))
    halves = [data.train.batch(rows)[0].numpy() for rows in order.split(800)]

    class Half:
        def __len__(self) -> int:
            return 800

        def batch(self, indices):
            return torch.from_numpy(halves[0][indices.numpy()]), None

    data.train = Half()
    versions = {
        "true": halves[1],
        "blurred": gaussian_filter(halves[1], (0, 0, 1.0, 1.0)),
        "collapsed": np.repeat(halves[1][:8], 100, 0),
    }
    found = {
        name: {
            key: value
            for metric in (FID(repeats=0), KID(), PrecisionRecall())
            for key, value in figures(metric, case(x, data, Blocks)).items()
        }
        for name, x in versions.items()
    }
    true, blurred, collapsed = found["true"], found["blurred"], found["collapsed"]
    assert true["fid"] < 0.1 * min(blurred["fid"], collapsed["fid"])
    assert abs(true["kid"]) < 0.1 * min(blurred["kid"], collapsed["kid"])
    assert min(true["precision"], true["recall"], true["coverage"]) > 0.8
    assert blurred["recall"] < 0.5
    assert collapsed["precision"] > 0.8
    assert max(collapsed["recall"], collapsed["coverage"]) < 0.1


def test_the_interval_of_kid_covers_zero_on_one_law() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        a, b = random.uniform(-1, 1, (2, 100, 1, 8, 8)).astype(np.float32)
        data = Digits(8, 0)
        data.train = Array(b, Path("b"), "signed")
        data.val = data.train
        (figure,) = KID(subsets=30)(case(a, data, Blocks))
        covered += figure.low <= 0 <= figure.high  # type: ignore[operator]
    assert covered >= 32


def test_labels_are_asked_of_the_classifier() -> None:
    data = Digits(8, 0)
    data.setup("fit")
    x, _ = data.train.batch(torch.arange(200))
    read = Blocks()(x)[1].argmax(1)
    y = torch.where(torch.arange(200) < 150, read, (read + 1) % 10)
    assert figures(Labels(), case(x.numpy(), data, Blocks, y))["accuracy"] == 0.75
    assert "class_variation" in figures(Labels(), case(x.numpy(), data, Blocks))
