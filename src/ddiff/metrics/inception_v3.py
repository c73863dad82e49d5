"""Inception-v3 of 2015-12-05 (Szegedy et al. 2015), which defines the FID (Heusel et al. 2017).

It is the TensorFlow graph with its peculiarities, under the public PyTorch weights.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddiff.data.source import to_bytes
from ddiff.system.downloads import Archive
from ddiff.system.errors import DdiffError

NAME = "pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
WEIGHTS = Archive(
    sha256={NAME: SHA256},
    mirrors=("https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/",),
)
ALSO_CALLED = "weights-inception-2015-12-05-6726825d.pth"  # by torch-fidelity

Kernel = int | tuple[int, int]
Step = tuple[int, *tuple[Kernel, ...]]  # channels out and the kernel; two kernels are a fork
Branches = dict[str, list[Step]]
ACROSS, DOWN = (1, 7), (7, 1)
FORK: Step = (384, (1, 3), (3, 1))
AT_35: Branches = {  # on maps of 35 x 35
    "branch1x1": [(64, 1)],
    "branch5x5": [(48, 1), (64, 5)],
    "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
}
TO_17: Branches = {"branch3x3": [(384, 3)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}
TO_8: Branches = {
    "branch3x3": [(192, 1), (320, 3)],
    "branch7x7x3": [(192, 1), (192, ACROSS), (192, DOWN), (192, 3)],
}
AT_8: Branches = {
    "branch1x1": [(320, 1)],
    "branch3x3": [(384, 1), FORK],
    "branch3x3dbl": [(448, 1), (384, 3), FORK],
}


def load_inception(weights: str | None, root: str | Path, download: bool = True) -> "Inception":
    """Load Inception with the weights in the file `weights`.

    None: takes them from `root` or torch's cache, or downloads them into `root`. Raises DdiffError.
    """
    path = Path(weights) if weights is not None else _find(Path(root), download)
    if not path.is_file():
        raise DdiffError(f"there is no file {path} with the weights of Inception")
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DdiffError(f"cannot read {path}: {error.strerror or error}") from error
    if found != SHA256:
        raise DdiffError(
            f"{path} is truncated or another file: its sha256 begins with {found[:8]}, "
            f"that of {WEIGHTS.mirrors[0]}{NAME} with {SHA256[:8]}"
        )
    inception = Inception()
    inception.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return inception


def _find(root: Path, download: bool) -> Path:
    hub = Path(torch.hub.get_dir()) / "checkpoints"  # where pytorch-fid and torch-fidelity put it
    for folder in (root, hub):
        if path := WEIGHTS.find(folder, NAME, ALSO_CALLED):
            return path
    if not download:
        raise WEIGHTS.missing(root, [NAME])
    WEIGHTS.download(root, [NAME])
    return root / NAME


class Inception(nn.Module):
    """The net: images [B, 1 or 3, H, W] in [-1, 1] -> pool3 features [B, 2048], logits [B, 1008].

    The logits are without their bias, as the Inception score takes them. The children, in order,
    are the graph; their names are those of the weights.
    """

    name = "inception-2015-12-05"
    digest = SHA256[:8]  # load_inception accepts no other weights

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.MaxPool_1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, same=False)
        self.MaxPool_2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = Mixed(192, average(), AT_35, pool_to=32)
        self.Mixed_5c = Mixed(256, average(), AT_35, pool_to=64)
        self.Mixed_5d = Mixed(288, average(), AT_35, pool_to=64)
        self.Mixed_6a = Mixed(288, nn.MaxPool2d(3, 2), TO_17, stride=2)
        self.Mixed_6b = Mixed(768, average(), at_17(128), pool_to=192)
        self.Mixed_6c = Mixed(768, average(), at_17(160), pool_to=192)
        self.Mixed_6d = Mixed(768, average(), at_17(160), pool_to=192)
        self.Mixed_6e = Mixed(768, average(), at_17(192), pool_to=192)
        self.Mixed_7a = Mixed(768, nn.MaxPool2d(3, 2), TO_8, stride=2)
        self.Mixed_7b = Mixed(1280, average(), AT_8, pool_to=192)
        last_pool = nn.MaxPool2d(3, 1, padding=1)  # as in the original: only here not the average
        self.Mixed_7c = Mixed(2048, last_pool, AT_8, pool_to=192)
        self.fc = nn.Linear(2048, 1008)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            shape = tuple(x.shape[1:])
            raise DdiffError(f"Inception takes images [1 or 3, H, W], not samples of shape {shape}")
        x = resize(to_bytes(x.float()).float(), 299)  # the values of a saved image
        x = ((x - 128) / 128).expand(-1, 3, -1, -1)
        *graph, _ = self.children()
        with torch.autocast(x.device.type, enabled=False):
            for layer in graph:
                x = layer(x)
            features = x.mean((2, 3))
            return features, F.linear(features, self.fc.weight)


class Conv(nn.Module):
    """Convolution, batch norm by its stored statistics (in training mode too), ReLU."""

    def __init__(
        self, width: int, out: int, kernel: Kernel, stride: int = 1, same: bool = True
    ) -> None:
        super().__init__()
        sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sizes[0] // 2, sizes[1] // 2) if same and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(width, out, sizes, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x, bn = self.conv(x), self.bn
        x = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        return x.relu_()


class Mixed(nn.Module):
    """Block of parallel branches: chains of convolutions, and a pool, of one input.

    The last convolutions of a chain, and the pool, have the block's stride.
    """

    def __init__(
        self, width: int, pool: nn.Module, branches: Branches, pool_to: int = 0, stride: int = 1
    ) -> None:
        super().__init__()
        self.pool = pool
        self.branch_pool = Conv(width, pool_to, 1) if pool_to else nn.Identity()
        self.chains = [self._chain(*branch, width, stride) for branch in branches.items()]

    def _chain(self, branch: str, steps: list[Step], width: int, stride: int) -> list[list[Conv]]:
        """The convolutions of each step, under their names: branch_1, branch_2a and branch_2b."""
        chain = []
        for i, (out, *kernels) in enumerate(steps, 1):
            number = f"_{i}" if len(steps) > 1 else ""
            letters = ("a", "b") if len(kernels) > 1 else ("",)
            convs = [
                Conv(width, out, kernel, stride if i == len(steps) else 1) for kernel in kernels
            ]
            for letter, conv in zip(letters, convs, strict=True):
                self.add_module(f"{branch}{number}{letter}", conv)
            chain.append(convs)
            width = out
        return chain

    def forward(self, x: Tensor) -> Tensor:
        outs = []
        for *steps, ends in self.chains:
            y = x
            for (conv,) in steps:
                y = conv(y)
            outs += [conv(y) for conv in ends]
        return torch.cat([*outs, self.branch_pool(self.pool(x))], 1)


def at_17(n: int) -> Branches:
    return {
        "branch1x1": [(192, 1)],
        "branch7x7": [(n, 1), (n, ACROSS), (192, DOWN)],
        "branch7x7dbl": [(n, 1), (n, DOWN), (n, ACROSS), (n, DOWN), (192, ACROSS)],
    }


def average() -> nn.Module:
    """Average pooling as in TensorFlow: the border is not part of the mean."""
    return nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)


def resize(x: Tensor, size: int) -> Tensor:
    """Resize [B, C, H, W] to [B, C, size, size], bilinearly as in TensorFlow 1.

    Output i is read at i * (in / out), without a shift of half a pixel and without smoothing.
    """
    for dim in (3, 2):
        scale = torch.tensor(x.shape[dim] / size, device=x.device)  # float32, as TensorFlow's
        at = torch.arange(size, device=x.device) * scale
        low = at.long()
        high = (low + 1).clamp(max=x.shape[dim] - 1)
        a, b = x.index_select(dim, low), x.index_select(dim, high)
        x = a + (b - a) * (at - low).view((-1, 1) if dim == 2 else -1)
    return x
