"""Six small data sets whose laws are known, and how far samples are from them.

    python -m experiments.recipes.sets data/recipes      # writes the five that are files

`Law` is the distance as a metric of ddiff.evaluate: conf/metrics/law.yaml.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddiff.metrics.figures import Case, Figure
from ddiff.metrics.spheres import best_sphere

Array = np.ndarray
PALETTE = np.array([[-1, -1, -1], [1, 1, -1], [-1, 0, 1], [1, -0.5, -1]])  # the four colours
LAMPS = [(z, y, 3) for z in (1, 5) for y in (1, 5)]  # corners of 2^3 voxels
WIDE = 1.0  # pixels: the correlation of the field is exp(-r^2 / (2 WIDE^2))
FIELD_STD = 0.3


def field_spectrum(side: int) -> Array:
    """Power of every Fourier mode of the field; the mean is the variance FIELD_STD^2."""
    k = 2 * np.pi * np.fft.fftfreq(side)
    power = np.exp(-(k[:, None] ** 2 + k**2) * WIDE**2 / 2)
    return power / power.mean() * FIELD_STD**2


def balls(num: int, rng: np.random.Generator) -> Array:
    """Solid balls of radius 1.2 to 3 at random places of 8^3 voxels."""
    grid = np.stack(np.meshgrid(*3 * [np.arange(8)], indexing="ij"))
    radius = rng.uniform(1.2, 3, (num, 1, 1, 1))
    places = rng.uniform(0, 1, (num, 3)) * (7 - 2 * radius[:, 0, 0]) + radius[:, 0, 0]
    squares = ((grid[None] - places[:, :, None, None, None]) ** 2).sum(1)
    return np.where(squares <= radius**2, 1.0, -1.0)[:, None]


def field(num: int, rng: np.random.Generator) -> Array:
    """Smooth Gaussian random fields, periodic, 8 x 8."""
    noise = np.fft.fft2(rng.standard_normal((num, 8, 8)))
    return np.fft.ifft2(noise * np.sqrt(field_spectrum(8))).real[:, None]


def digits(num: int, rng: np.random.Generator) -> Array:
    """The digits of scikit-learn, drawn without replacement."""
    from sklearn.datasets import load_digits

    images = load_digits().images / 8 - 1  # pyright: ignore[reportAttributeAccessIssue]
    return images[rng.permutation(len(images))[:num], None]


def few_colours(num: int, rng: np.random.Generator) -> Array:
    """Two rectangles on a background, 8 x 8, each of a different colour out of four."""
    index = np.zeros((num, 8, 8), int)
    for image in index:
        colours = rng.permutation(4)
        image[:] = colours[0]
        for colour in colours[1:3]:
            (y, x), (h, w) = rng.integers(0, 5, 2), rng.integers(2, 5, 2)
            image[y : y + h, x : x + w] = colour
    return PALETTE[index].transpose(0, 3, 1, 2)


def lamps(num: int, rng: np.random.Generator) -> Array:
    """Four lamps of 2^3 voxels in 8^3, each on or off by a fair coin; all else is dark."""
    volumes = np.full((num, 1, 8, 8, 8), -1.0)
    for z, y, x in LAMPS:
        on = rng.integers(0, 2, num) * 2.0 - 1
        volumes[:, 0, z : z + 2, y : y + 2, x : x + 2] = on[:, None, None, None]
    return volumes


def bumps(num: int, rng: np.random.Generator) -> Array:
    """A smooth bump of random place and width, 8 x 8."""
    places, width = rng.uniform(1.5, 5.5, (num, 2)), rng.uniform(0.8, 2, (num, 1, 1))
    y, x = np.mgrid[:8, :8]
    squares = (y - places[:, :1, None]) ** 2 + (x - places[:, 1:, None]) ** 2
    return (2 * np.exp(-squares / (2 * width**2)) - 1)[:, None]


def fifty(num: int, rng: np.random.Generator) -> Array:
    """Bumps, a fifth of which are copies of others."""
    found = bumps(num - num // 5, rng)
    return np.concatenate([found, found[: num // 5]])


def not_balls(x: Array) -> float:
    """1 - the mean overlap (IoU) with the best-fitting ball."""
    return 1 - float(np.mean([best_sphere(solid > 0).iou for solid in x[:200, 0]]))


def off_spectrum(x: Array) -> float:
    """Mean size of the logarithm of the power in shells of frequency over the true power."""
    power = (np.abs(np.fft.fft2(x[:, 0])) ** 2).mean(0) / 8**2
    true, k = field_spectrum(8), np.fft.fftfreq(8) * 8
    shell = np.rint(np.hypot(k[:, None], k)).astype(int)
    shells = [n for n in range(4) if true[shell == n].mean() > 1e-3 * true.max()]
    ratios = [power[shell == n].mean() / true[shell == n].mean() for n in shells]
    return float(np.abs(np.log(ratios)).mean())


def off_palette(x: Array) -> float:
    """Mean distance of a pixel to the nearest colour, plus how far the shares of the colours and
    the number of edges are from the true ones."""
    distances = np.linalg.norm(x[:, None] - PALETTE[None, :, :, None, None], axis=2)
    index, true = distances.argmin(1), _index(few_colours(2000, np.random.default_rng(99)))
    shares = [np.bincount(i.ravel(), minlength=4) / i.size for i in (index, true)]
    edges = [np.mean(i[:, 1:] != i[:, :-1]) + np.mean(i[:, :, 1:] != i[:, :, :-1])
             for i in (index, true)]  # fmt: skip
    off = np.abs(shares[0] - shares[1]).sum() / 2
    return float(distances.min(1).mean() + off + abs(edges[0] / edges[1] - 1))


def off_lamps(x: Array) -> float:
    """Distance of lamps from on and off, of the dark from dark, of shares and pairs from a coin."""
    lit = np.stack([x[:, 0, z : z + 2, y : y + 2, x_ : x_ + 2] for z, y, x_ in LAMPS], 1)
    dark = np.ones((8, 8, 8), bool)
    for z, y, x_ in LAMPS:
        dark[z : z + 2, y : y + 2, x_ : x_ + 2] = False
    undecided = np.abs(np.abs(lit) - 1).mean() + 10 * np.abs(x[:, 0][:, dark] + 1).mean()
    on = (lit.mean((2, 3, 4)) > 0) * 2.0 - 1
    pairs = on.T @ on / len(on) - np.eye(len(LAMPS))
    return float(undecided + np.abs(on.mean(0)).mean() + np.abs(pairs).sum() / 12)


def energy_distance(x: Array, y: Array) -> float:
    """Energy distance of two sets of samples over the mean distance within y."""
    x, y = (a.reshape(len(a), -1).astype(np.float32) for a in (x, y))

    def mean(a: Array, b: Array, same: bool) -> float:
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        total = np.sqrt(squares.clip(0)).sum()
        return float(total / (len(a) * (len(b) - same)))

    within = mean(y, y, True)
    return (2 * mean(x, y, False) - mean(x, x, True) - within) / within


def off_bumps(x: Array) -> float:
    """Energy distance to fresh samples of the law."""
    return energy_distance(x, bumps(2000, np.random.default_rng(99)))


def off_digits(x: Array) -> float:
    """Frechet distance to all digits in the space of the pixels' 20 principal components."""
    from scipy.linalg import sqrtm

    true = digits(1797, np.random.default_rng(0)).reshape(1797, -1)
    axes = np.linalg.svd(true - true.mean(0), full_matrices=False)[2][:20]
    a, b = (s.reshape(len(s), -1) @ axes.T for s in (x, true))
    covariances = np.cov(a.T), np.cov(b.T)
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    trace = np.trace(covariances[0] + covariances[1] - 2 * root)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + trace)


def _index(x: Array) -> Array:
    return np.linalg.norm(x[:, None] - PALETTE[None, :, :, None, None], axis=2).argmin(1)


@dataclass(frozen=True)
class Known:
    """A data set of which the law is known."""

    law: Callable[[int, np.random.Generator], Array]
    figure: Callable[[Array], float]
    number: int  # of training samples

    def write(self, folder: Path) -> None:
        """Write the training samples as files."""
        folder.mkdir(parents=True)
        for i, sample in enumerate(self.law(self.number, np.random.default_rng(0))):
            if sample.ndim == 4:
                np.save(folder / f"{i:04}.npy", (sample[0] > 0).astype(np.uint8))
                continue
            pixels = (sample.clip(-1, 1) * 127.5 + 127.5).round().astype(np.uint8)
            picture = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
            Image.fromarray(picture).save(folder / f"{i:04}.png")


SETS = {
    "balls": Known(balls, not_balls, 1000),
    "field": Known(field, off_spectrum, 2000),
    "digits": Known(digits, off_digits, 1797),
    "colours": Known(few_colours, off_palette, 2000),
    "lamps": Known(lamps, off_lamps, 1000),
    "fifty": Known(fifty, off_bumps, 50),
}


class Law:
    """The distance of samples to the law of their data set, which its folder is named after."""

    def obstacle(self, case: Case) -> str | None:
        return None if name_of(case.data) in SETS else f"needs one of {', '.join(SETS)} as data"

    def __call__(self, case: Case) -> list[Figure]:
        name, every = name_of(case.data), torch.arange(len(case.samples))
        x = case.samples.source.batch(every)[0].double().numpy()
        figure = SETS[name].figure
        protocol = {"law": name, "figure": figure.__name__}
        return [Figure("distance", figure(x), len(x), protocol, better="lower")]


def name_of(data: Any) -> str:
    """Return the name of the data set: of its folder, or of its class."""
    return Path(getattr(data, "root", None) or type(data).__name__.lower()).name


def main() -> None:
    folder = Path(sys.argv[1])
    for name, known in SETS.items():
        if name != "digits" and not (folder / name).exists():
            known.write(folder / name)


if __name__ == "__main__":
    main()
