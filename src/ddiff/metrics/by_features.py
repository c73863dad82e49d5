"""Metrics of features: distances between two sets of samples, and a classifier's labels.

Functions of features come first; the metrics, which take a `Case`, stand below them.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from scipy.special import rel_entr
from scipy.stats import chisquare
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from ddiff.metrics.figures import Case, Figure, bootstrap, mean_figure, share_figure
from ddiff.metrics.moments import frechet, frechet_bootstrap
from ddiff.metrics.pairs import distance_blocks
from ddiff.system.bounds import At, Count
from ddiff.system.errors import ConfigError


def kid(
    a: Tensor, b: Tensor, subset_size: int, subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Kernel Inception distance (Binkowski et al. 2018) of features [N, D] and [M, D], in float64.

    Returns mean and standard deviation over subsets, each drawn without replacement. The distance
    is unbiased, so it is below 0 about as often as above for two sets of one law. The subsets
    overlap: the deviation depends more on their size than on the error of the mean. Raises
    ConfigError for a subset size that does not fit.
    """
    fewest = min(len(a), len(b))
    if not 2 <= subset_size <= fewest:
        raise ConfigError(
            f"kid: subset_size={subset_size} must lie between 2 and {fewest}, "
            f"the smaller of the two numbers of samples"
        )
    random = np.random.default_rng(seed)

    def drawn(x: Tensor) -> Tensor:
        return x[random.choice(len(x), subset_size, replace=False)].double()

    values = [float(poly_mmd(drawn(a), drawn(b))) for _ in range(subsets)]
    return float(np.mean(values)), float(np.std(values))


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """Improved precision and recall (Kynkaanniemi et al. 2019) of every sample, bool [M] and [N].

    Each set is the union of balls that reach to the k-th neighbour. Precision says which of the
    generated [M, D] lie in a ball of the real [N, D]; recall says which of the real lie in a ball
    of the generated.
    """
    precise = _inside(generated, real, _squared_radii(real, k))[0] > 0
    return precise, _inside(real, generated, _squared_radii(generated, k))[0] > 0


def density_coverage(real: Tensor, generated: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """Density [M] and coverage [N] (Naeem et al. 2020) of real [N, D] and generated [M, D].

    Density is the number of balls of the real that hold each generated sample, over k: 1 on average
    if the laws agree. Coverage says which balls of the real hold any generated sample.
    """
    balls, covered = _inside(generated, real, _squared_radii(real, k))
    return balls / k, covered


def _squared_radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of each point of x [N, D] to its k-th nearest other, [N]."""
    if not 1 <= k < len(x):
        raise ConfigError(f"k={k} neighbours of each of {len(x)} samples: k must lie in 1..N - 1")
    nearest = torch.full((len(x), k), torch.inf, dtype=torch.float64)
    for rows, columns, squared in distance_blocks(x, x):
        if rows == columns:
            squared.fill_diagonal_(torch.inf)
        nearest[rows] = torch.cat([nearest[rows], squared], 1).topk(k, largest=False).values
    return nearest.amax(1)


def _inside(points: Tensor, centres: Tensor, squared_radii: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of balls that hold each point [N], and which balls hold any [M].

    points [N, D]; centres [M, D]; squared_radii [M].
    """
    balls = torch.zeros(len(points), dtype=torch.int64)
    occupied = torch.zeros(len(centres), dtype=torch.bool)
    for rows, columns, squared in distance_blocks(points, centres):
        inside = squared <= squared_radii[columns]
        balls[rows] += inside.sum(1)
        occupied[columns] |= inside.any(0)
    return balls, occupied


def classifier_score(probabilities: np.ndarray) -> float:
    """Inception score (Salimans et al. 2016) of a classifier's probabilities [N, K].

    It is exp(mean KL(p(y|x) || p(y))): 1 if samples cannot be told apart, K if each is surely of
    one class and all classes are equally frequent. Published scores are means over ten parts of the
    samples.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    return float(np.exp(rel_entr(p, p.mean(0)).sum(1).mean()))


def total_variation(labels: np.ndarray, law: np.ndarray) -> float:
    """Half the summed difference between the frequencies of labels [N] and their wanted law [K].

    The law need not be normalised. N true samples do not reach 0 but about

        sum_k sqrt(law_k (1 - law_k) / (2 pi N)).
    """
    counts, wanted = _counts(labels, law)
    return float(np.abs(counts - wanted).sum() / (2 * len(labels)))


def class_law_p(labels: np.ndarray, law: np.ndarray) -> float:
    """Probability that labels [N] drawn from a law [K] are as far from it as these (chi-square)."""
    counts, wanted = _counts(labels, law)
    if counts[wanted == 0].any():
        return 0.0
    possible = wanted > 0
    return float(chisquare(counts[possible], wanted[possible]).pvalue)


def _counts(labels: np.ndarray, law: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Found and expected counts of every label, [K] each."""
    law = np.asarray(law, dtype=np.float64)
    return np.bincount(labels, minlength=len(law)), len(labels) * law / law.sum()


@dataclass(frozen=True)
class FID:
    """Frechet distance of the features' Gaussians; with Inception, the FID of Heusel et al. 2017.

    Its bias is of order 1 / n: compare only figures of equal n.
    """

    repeats: Annotated[int, At(least=0)] = 100

    def obstacle(self, case: Case) -> str | None:
        return case.no_features or _too_few(2, case)

    def __call__(self, case: Case) -> list[Figure]:
        ours, real = case.features, case.reference_features
        low = high = None
        if self.repeats and len(ours.kept) == ours.moments.n:
            low, high = frechet_bootstrap(ours.kept, real.moments, case.seed, self.repeats)
        value = frechet(ours.moments, real.moments)
        return [Figure("fid", value, ours.moments.n, _protocol(case), low, high, "lower")]


@dataclass(frozen=True)
class KID:
    """Kernel distance (Binkowski et al. 2018), without bias in n.

    It is the mean over subsets of m samples, at most half of all n. Their deviation is that of a
    sample of m from a population of n. The interval scales it to n samples by sqrt(m / n), and
    divides by sqrt(1 - m / n) because the subsets are drawn without replacement.
    """

    subset_size: Annotated[int, At(least=2)] = 1000
    subsets: Count = 50

    def obstacle(self, case: Case) -> str | None:
        return case.no_features or _too_few(4, case)

    def __call__(self, case: Case) -> list[Figure]:
        ours, real = case.features.kept, case.reference_features.kept
        n = min(len(ours), len(real))
        size = min(self.subset_size, n // 2)
        mean, std = kid(ours, real, size, self.subsets, case.seed)
        reach = 1.96 * std * (size / n / (1 - size / n)) ** 0.5
        how = _protocol(case) | {"subsets": f"{self.subsets} of {size}"}
        return [Figure("kid", mean, len(ours), how, mean - reach, mean + reach, "lower")]


class PrecisionRecall:
    """Improved precision and recall (k = 3), density and coverage (k = 5), of equally many."""

    def obstacle(self, case: Case) -> str | None:
        return case.no_features or _too_few(6, case)

    def __call__(self, case: Case) -> list[Figure]:
        ours, real = case.features.kept, case.reference_features.kept
        n = min(len(ours), len(real))
        ours, real = ours[:n], real[:n]
        precise, recalled = precision_recall(real, ours, k=3)
        density, covered = density_coverage(real, ours, k=5)
        three, five = (_protocol(case) | {"k": k} for k in (3, 5))
        balls = density.double().numpy()  # a number of balls, not a share
        return [
            share_figure("precision", precise, three, "higher"),
            share_figure("recall", recalled, three, "higher"),
            mean_figure("density", balls, five, "higher", case.seed),
            share_figure("coverage", covered, five, "higher"),
        ]


class Labels:
    """Metrics of the classes that a classifier reads from the samples.

    If labels were asked for: the share of samples that have them. Otherwise: whether the classes
    are as frequent as in the reference. In both cases, the Inception score's formula.
    """

    def obstacle(self, case: Case) -> str | None:
        return case.no_features

    def __call__(self, case: Case) -> list[Figure]:
        logits, how = case.features.logits, {"extractor": case.extractor.name}
        p, n = logits.softmax(1).numpy(), len(logits)
        low, high = bootstrap(p, classifier_score, case.seed, repeats=200, centred=True)
        score = Figure("classifier_score", classifier_score(p), n, how, low, high, "higher")
        if not case.extractor.labels:
            return [score]
        if case.y is not None:
            right = logits.argmax(1) == case.y[:n]
            return [share_figure("accuracy", right, how, "higher"), score]
        if (wanted := case.reference.labels) is None:
            return [score]
        law = np.bincount(wanted.numpy(), minlength=logits.shape[1]).astype(float)
        read = logits.argmax(1).numpy()
        how = _protocol(case)
        return [
            Figure("class_variation", total_variation(read, law), n, how, better="lower"),
            Figure("class_p", class_law_p(read, law), n, how),
            score,
        ]


def _too_few(least: int, case: Case) -> str | None:
    n = min(len(case.samples), len(case.reference))
    return None if n >= least else f"needs {least} samples or more, not {n}"


def _protocol(case: Case) -> dict[str, Any]:
    return {"reference": str(case.reference), "extractor": case.extractor.name}
