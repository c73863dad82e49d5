"""The classifier's net, and the small moves its training data make."""

import pytest
import torch

from ddiff.nets import Reader
from ddiff.system.errors import ConfigError
from ddiff.training.modules.classifier import shifted


@pytest.mark.parametrize("shape", [(3, 9, 9), (1, 8, 8, 8)], ids=["2D, odd size", "3D"])
def test_learns_what_is_in_the_picture(shape: tuple[int, ...]) -> None:
    """Which half is bright, at any brightness."""
    torch.manual_seed(0)
    net = Reader(shape, 2, channels=(8, 16), dropout=0.0)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(60):
        y = torch.randint(2, (32,))
        x = torch.randn(32, *shape)
        half = shape[1] // 2
        x[y == 0, :, :half] += 1
        x[y == 1, :, half:] += 1
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.2


def test_logits_are_linear_in_the_features() -> None:
    net = Reader((1, 8, 8), 5, patch_size=2).eval()
    x = torch.randn(3, 1, 8, 8)
    assert net.features(x).shape == (3, 128)
    torch.testing.assert_close(net(x), net.out(net.features(x)))


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="does not divide by 2"):
        Reader((1, 9, 9), 5, patch_size=2)
    with pytest.raises(ConfigError, match="channels"):
        Reader((1, 8, 8), 5, channels=())
    with pytest.raises(ConfigError, match=r"inputs of \[1, 8, 8\]"):
        Reader((1, 8, 8), 5)(torch.zeros(2, 1, 9, 9))


@pytest.mark.parametrize("dims", [2, 3])
def test_samples_move_by_whole_pixels_each_on_its_own(dims: int) -> None:
    x = torch.arange(6.0**dims).view(1, 1, *[6] * dims).repeat(200, 1, *[1] * dims)
    moved = shifted(x, 2, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape
    middle = (0, *[3] * dims)
    steps = {int(sample[middle] - x[0][middle]) for sample in moved}
    strides = [6**axis for axis in range(dims)]
    offsets = [0]
    for stride in strides:
        offsets = [o + stride * s for o in offsets for s in range(-2, 3)]
    assert steps <= set(offsets)
    assert len(steps) > 15
    assert shifted(x, 0, torch.Generator()) is x
