import hashlib
import math

import numpy as np
import pytest
import torch

from ddiff.metrics import inception_v3
from ddiff.metrics.inception_v3 import ALSO_CALLED, NAME, Inception, load_inception, resize
from ddiff.system.downloads import Archive
from ddiff.system.errors import DdiffError

NOWHERE = "http://127.0.0.1:9/"  # the discard port: refused


def random_state(net):
    """Weights that keep the scale of what passes through, and batch statistics to tell apart."""
    g = torch.Generator().manual_seed(0)

    def draw(name, like):
        if not like.is_floating_point():
            return torch.tensor(0)
        if name.endswith(("running_var", "bn.weight")):
            return torch.rand(like.shape, generator=g) + 0.5
        values = torch.randn(like.shape, generator=g)
        return values * (0.3 if like.ndim == 1 else math.sqrt(2 / like[0].numel()))

    return {name: draw(name, like) for name, like in sorted(net.state_dict().items())}


@pytest.fixture(scope="module")
def net():
    net = Inception()
    net.load_state_dict(random_state(net))
    return net


@pytest.fixture(scope="module")
def images():
    """Two of 32 x 28: noise, and a ramp of another slope in each channel."""
    noise = torch.randint(0, 256, (3, 32, 28), generator=torch.Generator().manual_seed(1))
    rows, columns = torch.arange(32)[:, None], torch.arange(28)
    ramp = torch.stack([7 * rows + 0 * columns, 9 * columns + 0 * rows, 3 * rows + 5 * columns])
    return torch.stack([noise, ramp % 256]) / 127.5 - 1


def difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def test_the_weights_are_named_and_shaped_as_the_public_files(net):
    """The hash is of the same listing made from torch-fidelity 0.4.0's FeatureExtractorInceptionV3,
    which loads the public file strictly."""
    state = net.state_dict()
    assert len(state) == 566
    assert sum(p.numel() for p in net.parameters()) == 23_850_960
    listing = "\n".join(f"{name} {tuple(value.shape)}" for name, value in sorted(state.items()))
    assert hashlib.sha256(listing.encode()).hexdigest()[:16] == "760681d791cb624e"
    assert not any(p.requires_grad for p in net.parameters())


def test_features_and_logits_of_an_independent_implementation(net, images):
    """torch-fidelity 0.4.0's network with these weights, on these images, run in float64."""
    features, logits = net(images)
    assert features.shape == (2, 2048)
    assert logits.shape == (2, 1008)
    probes = torch.arange(2048.0).cos(), torch.arange(1008.0).cos()
    found = torch.stack([features @ probes[0], logits @ probes[1]])
    probed = torch.tensor([[166.758535, 142.927781], [3.211730, 6.888448]])
    torch.testing.assert_close(found, probed, rtol=1e-4, atol=1e-3)
    first = torch.tensor([[1.799282, 0.0, 0.544583, 2.582103], [1.244090, 0.0, 0.511567, 2.137823]])
    torch.testing.assert_close(features[:, :4], first, rtol=1e-4, atol=1e-5)


def bilinear(image, size):
    """ResizeBilinear of TensorFlow 1 with align_corners and half_pixel_centers off, by loops."""
    height, width = image.shape
    out = np.empty((size, size), np.float32)
    for i in range(size):
        for j in range(size):
            y = np.float32(i) * np.float32(height / size)
            x = np.float32(j) * np.float32(width / size)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            fx, fy = x - np.float32(left), y - np.float32(top)
            above = image[top, left] + (image[top, right] - image[top, left]) * fx
            below = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * fx
            out[i, j] = above + (below - above) * fy
    return out


@pytest.mark.parametrize("shape", [(5, 7), (28, 32), (41, 41), (90, 64), (1, 3)])
def test_resize_is_tensorflows(shape):
    x = torch.randint(0, 256, (2, 3, *shape), generator=torch.Generator().manual_seed(2)).float()
    expected = [[bilinear(channel, 41) for channel in image] for image in x.numpy()]
    np.testing.assert_array_equal(resize(x, 41).numpy(), np.array(expected))


def test_resize_has_no_half_pixels_and_no_aligned_corners():
    ramp = torch.tensor([[[[0.0, 1.0]]]])
    assert resize(ramp, 4)[0, 0, 0].tolist() == [0.0, 0.5, 1.0, 1.0]


def windows(x):
    """What is really there of the 3 x 3 neighbourhood of each pixel of x [H, W]."""
    height, width = x.shape
    around = range(height), range(width)
    return [[x[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] for j in around[1]] for i in around[0]]


def test_average_pools_leave_out_the_border_and_the_last_pool_is_a_max(net):
    x = torch.randn(1, 1, 5, 6, generator=torch.Generator().manual_seed(3))
    means = torch.tensor([[w.mean() for w in row] for row in windows(x[0, 0])])
    maxima = torch.tensor([[w.max() for w in row] for row in windows(x[0, 0])])
    for block in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b", "7c"):
        pooled = net.get_submodule(f"Mixed_{block}").pool(x)[0, 0]
        torch.testing.assert_close(pooled, maxima if block == "7c" else means)


def test_features_do_not_depend_on_the_rest_of_the_batch(net, images):
    together, alone = net(images), [net(image[None]) for image in images]
    for i in (0, 1):
        assert difference(together[i], torch.cat([one[i] for one in alone])) < 1e-5
    assert difference(together[0][:1], together[0][1:]) > 0.1


def test_training_mode_and_autocast_change_nothing(net, images):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    expected = net.eval()(images[:1])
    with torch.autocast("cpu", torch.bfloat16):
        found = net.train()(images[:1])
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_grey_images_have_three_equal_channels(net, images):
    grey = images[:1, :1]
    assert torch.equal(net(grey)[0], net(grey.expand(-1, 3, -1, -1))[0])


def test_images_are_measured_as_they_are_saved(net, images):
    """Rounded to bytes, and cut at black and white."""
    image = images[1:]
    step = 1 / 127.5
    moved = torch.where(image < 0, image + 0.4 * step, image - 0.4 * step)
    moved = torch.where(image == 1, 1.5, torch.where(image == -1, -1.5, moved))
    assert torch.equal(net(moved)[0], net(image)[0])
    assert not torch.equal(net(image + step)[0], net(image)[0])


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 8, 8, 8)])
def test_only_images(net, shape):
    with pytest.raises(DdiffError, match=r"takes images \[1 or 3, H, W\], not .* \(\d, 8, 8"):
        net(torch.zeros(1, *shape))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No network, and an empty cache of torch."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(inception_v3, "WEIGHTS", Archive({NAME: inception_v3.SHA256}, (NOWHERE,)))


def test_a_file_of_weights_is_loaded(net, tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    torch.save(net.state_dict(), path)
    monkeypatch.setattr(inception_v3, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    loaded = load_inception(str(path), tmp_path).state_dict()
    path.unlink()  # 95 MB
    assert all(torch.equal(value, loaded[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"<html>"])
@pytest.mark.parametrize(
    "place", ["my.pth", f"root/{NAME}", f"root/{ALSO_CALLED}", f"torch/hub/checkpoints/{NAME}"]
)
def test_every_place_is_looked_at_and_a_wrong_file_refused(offline, tmp_path, place, content):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(DdiffError) as caught:
        load_inception(str(path) if place == "my.pth" else None, tmp_path / "root")
    assert str(caught.value) == (
        f"{path} is truncated or another file: its sha256 begins with "
        f"{hashlib.sha256(content).hexdigest()[:8]}, that of {NOWHERE}{NAME} with 6726825d"
    )


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DdiffError, match=r"^there is no file .*/none\.pth with the weights"):
        load_inception(str(tmp_path / "none.pth"), tmp_path)


@pytest.mark.parametrize("download", [True, False])
def test_offline_says_what_to_put_where(offline, tmp_path, download):
    why = " (download failed, 127.0.0.1:9: ConnectionError)" if download else ""
    with pytest.raises(DdiffError) as caught:
        load_inception(None, tmp_path / "root", download)
    assert str(caught.value) == (
        f"{NAME} is not in {tmp_path / 'root'}{why}: get it from {NOWHERE}{NAME} and put it there"
    )


def test_the_protocol_names_the_public_weights():
    assert (Inception.name, Inception.digest) == ("inception-2015-12-05", "6726825d")
    assert inception_v3.SHA256.startswith(Inception.digest)
    assert NAME.removesuffix(".pth").endswith(Inception.digest)
