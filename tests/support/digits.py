"""A small reader of digits, trained on the real ones."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


def trained_reader(seed: int = 0) -> tuple[nn.Module, float]:
    """A classifier of 8 x 8 digits in [-1, 1], and its accuracy on the tenth held out."""
    real = load_digits()
    x = torch.tensor(real.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(real.target)
    torch.manual_seed(seed)
    order = torch.randperm(len(x))
    held, rest = order[: len(x) // 10], order[len(x) // 10 :]
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(1024, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(25):
        for rows in rest[torch.randperm(len(rest))].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    net.eval()
    return net, accuracy(net, x[held], y[held])


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return (net(x).argmax(1) == y).float().mean().item()
