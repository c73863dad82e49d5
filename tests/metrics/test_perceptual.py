"""LPIPS, on random weights in the published layouts, against plain numbers and torchmetrics."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import lpips as peer

from ddiff.metrics.perceptual import BACKBONES, Perceptual, load_perceptual
from ddiff.system.errors import DdiffError
from tests.support.runs import ddiff_many, job

SIDES = {"alex": (35, 31), "vgg": (17, 16)}
ALEX_SHAPES = {  # of torchvision's alexnet().features
    0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}  # fmt: skip
VGG_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of torchvision's vgg16().features


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Weights and heads of both nets."""
    folder = tmp_path_factory.mktemp("lpips")
    torch.manual_seed(0)
    found = {}
    for name in BACKBONES:
        net = Perceptual(name)
        state = {f"features.{key}": value for key, value in net.features.state_dict().items()}
        state = {key: value + 0.02 * torch.randn_like(value) for key, value in state.items()}
        state["classifier.1.weight"] = torch.zeros(3)  # which nothing reads
        weights, heads = folder / f"{name}net.pth", folder / f"{name}.pth"
        torch.save(state, weights)
        lin = {
            f"lin{i}.model.1.weight": torch.rand(1, len(head), 1, 1)
            for i, head in enumerate(net.heads)
        }
        torch.save(lin, heads)
        found[name] = weights, heads
    return found


def pictures(name: str, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 3, channels, *SIDES[name], generator=generator) * 2 - 1
    return a, b


def test_layers_have_the_published_names(files):
    state = torch.load(files["alex"][0], weights_only=True)
    shapes = {key: tuple(value.shape) for key, value in state.items() if "weight" in key}
    wanted = {f"features.{i}.weight": shape for i, shape in ALEX_SHAPES.items()}
    assert shapes == wanted | {"classifier.1.weight": (3,)}
    vgg = [key for key in torch.load(files["vgg"][0], weights_only=True) if "weight" in key]
    assert vgg[:-1] == [f"features.{i}.weight" for i in VGG_CONVS]


def test_by_hand(files):
    """AlexNet's five layers written out, in float64."""
    a, b = pictures("alex")
    weights, heads = (torch.load(path, weights_only=True) for path in files["alex"])
    shift = torch.tensor([-0.030, -0.088, -0.188]).double()[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450]).double()[:, None, None]
    layers = []
    for x in (a, b):
        x, maps = (x.double() - shift) / scale, []
        for number, (index, stride, padding) in enumerate(
            [(0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)]
        ):
            if number in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            w, bias = (weights[f"features.{index}.{part}"].double() for part in ("weight", "bias"))
            x = F.conv2d(x, w, bias, stride, padding).clamp(min=0)
            maps.append(x.numpy())
        layers.append(maps)
    wanted = np.zeros(len(a))
    for i, (one, other) in enumerate(zip(*layers, strict=True)):
        unit = [x / (np.sqrt((x**2).sum(1, keepdims=True)) + 1e-10) for x in (one, other)]
        w = heads[f"lin{i}.model.1.weight"].double().numpy()
        wanted += (w * (unit[0] - unit[1]) ** 2).sum(1).mean((1, 2))
    net = load_perceptual("alex", *map(str, files["alex"]))
    np.testing.assert_allclose(net(a, b).numpy(), wanted, rtol=2e-4)
    assert wanted.min() > 0.05
    assert net(a, a).tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", BACKBONES)
def test_is_that_of_torchmetrics(name, files, monkeypatch):
    """Which takes torchvision's nets; with its own copy of the heads, which are the default."""
    net = load_perceptual(name, str(files[name][0]), None)
    monkeypatch.setattr(peer, "_get_tv_model_features", lambda *_: net.features)
    theirs = peer._LPIPS(net=name)
    a, b = pictures(name)
    wanted = theirs(a, b).flatten()
    torch.testing.assert_close(net(a, b), wanted.detach(), rtol=1e-3, atol=1e-6)
    grey = pictures(name, 1)
    three = [x.expand(-1, 3, -1, -1) for x in grey]
    torch.testing.assert_close(net(*grey), net(*three))


def test_files_that_are_missing_or_others(files, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DdiffError, match=r"no file .*alexnet-owt-7be5be79.pth; .* from https://"):
        load_perceptual("alex", None, None)
    with pytest.raises(DdiffError, match=r"no file .*; metrics.lpips.heads= takes alex.pth, from"):
        load_perceptual("alex", str(files["alex"][0]), str(tmp_path / "heads.pth"))
    with pytest.raises(DdiffError, match=r"has no features.0.weight .*; give vgg16-397923af"):
        load_perceptual("vgg", str(files["alex"][0]), None)
    with pytest.raises(DdiffError, match=r"has no lin0.* of the package lpips"):
        load_perceptual("alex", *map(str, [files["alex"][0]] * 2))


def test_the_verb_measures_it(files, tmp_path):
    a, b = pictures("alex", 1)
    np.save(tmp_path / "made.npy", a.numpy())
    np.save(tmp_path / "true.npy", b.numpy())
    np.save(tmp_path / "small.npy", b[..., :16].numpy())
    weights, heads = files["alex"]
    pair = ("evaluate", "samples=made.npy", "reference=true.npy", "metrics=[pairs,lpips]")
    small = ("evaluate", "samples=small.npy", "reference=small.npy", "metrics=[lpips]")
    mine = (f"metrics.lpips.weights={weights}", f"metrics.lpips.heads={heads}")
    jobs = [job(*pair, *mine), job(*pair, f"metrics.lpips.weights={tmp_path}/none", "out=none"),
            job(*small, *mine)]  # fmt: skip
    measured, missing, tiny = ddiff_many(jobs, tmp_path)
    assert measured.status == 0, measured.err
    figures = json.loads((tmp_path / "made.evaluation.json").read_text())["figures"]
    (found,) = [figure for figure in figures if figure["name"] == "lpips"]
    wanted = load_perceptual("alex", str(weights), str(heads))(a, b).mean().item()
    assert found["value"] == pytest.approx(wanted, rel=1e-4)
    assert found["protocol"]["net"].startswith("alex ")
    assert "metrics.lpips.weights= takes alexnet-owt-7be5be79.pth, from https://" in missing.err
    assert "needs pictures of 31 pixels or more a side with net=alex" in tiny.err
    assert {len(done.err.splitlines()) for done in (missing, tiny)} == {1}
