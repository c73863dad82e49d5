"""LPIPS: how different two pictures look, by the features of a classifier (Zhang et al. 2018).

The features are those of AlexNet or VGG16, in torchvision's layout of weights. At five depths they
are scaled to length 1 at each place; the squares of their differences are weighed by the `heads`,
which were fitted to people's judgements, and averaged over places.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ddiff.interchange.tensors import read_tensors
from ddiff.system.errors import DdiffError

Backbone = Literal["alex", "vgg"]
# of ImageNet's colours, in units of [-1, 1]; the numbers of the authors
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
ALEX = (  # channels, kernel, stride and padding of a convolution, or the kernel of a pool
    (64, 11, 4, 2), 3, (192, 5, 1, 2), 3, (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1),
)  # fmt: skip
VGG = tuple(
    layer
    for level, (channels, number) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)))
    for layer in ([2] if level else []) + number * [(channels, 3, 1, 1)]
)


class _Published(NamedTuple):
    """A backbone: its layers, the indices of the ReLUs that are compared, the least side of a
    picture, and the published file."""

    layers: tuple[int | tuple[int, int, int, int], ...]
    taps: tuple[int, ...]
    least: int
    file: str


BACKBONES: dict[str, _Published] = {
    "alex": _Published(ALEX, (1, 4, 7, 9, 11), 31, "alexnet-owt-7be5be79.pth"),
    "vgg": _Published(VGG, (3, 8, 15, 22, 29), 16, "vgg16-397923af.pth"),
}


class Perceptual(nn.Module):
    """Distance of pictures: (a, b) [B, 1 or 3, H, W] in [-1, 1] -> [B]."""

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: Backbone):
        super().__init__()
        layers, self.taps, self.least, _ = BACKBONES[backbone]
        modules: list[nn.Module] = []
        channels, found = 3, []
        for layer in layers:
            if isinstance(layer, int):
                modules.append(nn.MaxPool2d(layer, 2))
                continue
            wide, kernel, stride, padding = layer
            modules += [nn.Conv2d(channels, wide, kernel, stride, padding), nn.ReLU()]
            channels = wide
            if len(modules) - 1 in self.taps:
                found.append(wide)
        self.features = nn.Sequential(*modules)
        self.heads = nn.ParameterList([torch.ones(wide) for wide in found])
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)

    @torch.no_grad()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = (torch.cat([a, b]).expand(-1, 3, -1, -1) - self.shift) / self.scale
        total, heads = torch.zeros(len(a), device=a.device), iter(self.heads)
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                one, other = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)).chunk(2)
                weighed = next(heads)[:, None, None] * (one - other).square()
                total = total + weighed.sum(1).mean((1, 2))
        return total


def load_perceptual(backbone: Backbone, weights: str | None, heads: str | None) -> Perceptual:
    """Return the distance with published weights.

    - `weights`: torchvision's file of the classifier; None: torch's cache of downloads.
    - `heads`: the file of the package lpips; None: the copy in torchmetrics.

    Raises DdiffError if a file is missing, which says where it comes from, or is another one.
    """
    net, published = Perceptual(backbone), BACKBONES[backbone].file
    place = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / published
    if not place.is_file():
        raise DdiffError(
            f"lpips: there is no file {place}; metrics.lpips.weights= takes {published}, from "
            f"https://download.pytorch.org/models/{published}"
        )
    mine = {f"features.{name}": value for name, value in net.features.state_dict().items()}
    found = _picked(read_tensors(place), mine, place, published)
    net.features.load_state_dict(
        {name.removeprefix("features."): value for name, value in found.items()}
    )
    place = Path(heads) if heads else _copy_of_torchmetrics(backbone)
    if place is None or not place.is_file():
        raise DdiffError(
            f"lpips: there is no file {place or 'in torchmetrics'}; metrics.lpips.heads= takes "
            f"{backbone}.pth, from lpips/weights/v0.1 of the package lpips"
        )
    names = {
        f"lin{i}.model.1.weight": head[None, :, None, None] for i, head in enumerate(net.heads)
    }
    found = _picked(read_tensors(place), names, place, f"{backbone}.pth of the package lpips")
    for mine_, name in zip(net.heads, names, strict=True):
        mine_.data = found[name].flatten().float()
    return net.eval().requires_grad_(False)


def _picked(
    there: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, published: str
) -> dict[str, Tensor]:
    """Return the wanted tensors of a file. Raises DdiffError if one lacks or has another shape."""
    for name, value in wanted.items():
        if name not in there or there[name].shape != value.shape:
            raise DdiffError(
                f"lpips: {path} has no {name} of {list(value.shape)}; give {published}"
            )
    return {name: there[name] for name in wanted}


def _copy_of_torchmetrics(backbone: str) -> Path | None:
    spec = find_spec("torchmetrics")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / f"functional/image/lpips_models/{backbone}.pth"
