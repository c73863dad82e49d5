"""Guidance of your own is a function of the net: here, guidance in an interval of noise levels.

    python examples/own_guidance.py runs/digits

Guidance at the highest noise levels makes samples alike, and at the lowest it is wasted
(Kynkaanniemi et al. 2024).
"""

import argparse

import torch

import ddiff
from ddiff.diffusion import Step
from ddiff.diffusion.guidance import Net
from ddiff.pages.view import picture, save_png

WEIGHT, FROM, TO = 2.0, 200, 700  # of the 1,000 timesteps


def in_the_middle(
    net: Net, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None, step: Step
) -> torch.Tensor:
    """(1 + w) net(x, t, y) - w net(x, t, no label) inside the interval, net(x, t, y) outside."""
    labelled = net(x, t, y)
    if not FROM <= int(t[0]) < TO:
        return labelled
    return (1 + WEIGHT) * labelled - WEIGHT * net(x, t, None)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", help="a run that was trained with labels")
parser.add_argument("--out", default="own_guidance.png")
given = parser.parse_args()

model = ddiff.load(given.run)
samples = model.sample(num_samples=100, y="each", guidance=in_the_middle)
save_png(picture(samples, columns=10), given.out)
print(f"a row for each class, guided in the middle: {given.out}")
