"""Metrics of features: two sets of samples as two clouds of points, and what a classifier reads."""

from typing import Annotated, Any

import numpy as np

from ddiff.metrics.case import Case, labels
from ddiff.metrics.figures import Figure, centred_bootstrap, mean_figure, share_figure
from ddiff.metrics.kernel import kid
from ddiff.metrics.labels import class_law_p, classifier_score, label_accuracy, total_variation
from ddiff.metrics.manifold import density_coverage, precision_recall
from ddiff.metrics.moments import frechet, frechet_bootstrap
from ddiff.system.bounds import At, Count


class FID:
    """Frechet distance of the features' Gaussians; with Inception, the FID of Heusel et al. 2017.

    Its bias is of order 1 / n: only figures of equal n compare.
    """

    def __init__(self, repeats: Annotated[int, At(least=0)] = 100) -> None:
        self.repeats = repeats

    def obstacle(self, case: Case) -> str | None:
        return case.no_features or at_least(2, case)

    def __call__(self, case: Case) -> list[Figure]:
        ours, real = case.features, case.reference_features
        low = high = None
        if self.repeats and len(ours.kept) == ours.moments.n:
            low, high = frechet_bootstrap(ours.kept, real.moments, case.seed, self.repeats)
        value = frechet(ours.moments, real.moments)
        return [Figure("fid", value, ours.moments.n, protocol(case), low, high, "lower")]


class KID:
    """Kernel distance (Binkowski et al. 2018), without bias in n.

    The mean over subsets of m, at most half of the n samples. Their deviation, that of a sample of
    m from a population of n, says how far n samples may be off: as sqrt(m / n) of it, over the
    sqrt(1 - m / n) that drawing without replacement takes away.
    """

    def __init__(
        self, subset_size: Annotated[int, At(least=2)] = 1000, subsets: Count = 50
    ) -> None:
        self.subset_size, self.subsets = subset_size, subsets

    def obstacle(self, case: Case) -> str | None:
        return case.no_features or at_least(4, case)

    def __call__(self, case: Case) -> list[Figure]:
        ours, real = case.features.kept, case.reference_features.kept
        n = min(len(ours), len(real))
        size = min(self.subset_size, n // 2)
        mean, std = kid(ours, real, size, self.subsets, case.seed)
        reach = 1.96 * std * (size / n / (1 - size / n)) ** 0.5
        how = protocol(case) | {"subsets": f"{self.subsets} of {size}"}
        return [Figure("kid", mean, len(ours), how, mean - reach, mean + reach, "lower")]


class PrecisionRecall:
    """Improved precision and recall (k = 3), density and coverage (k = 5), of equally many."""

    def obstacle(self, case: Case) -> str | None:
        return case.no_features or at_least(6, case)

    def __call__(self, case: Case) -> list[Figure]:
        ours, real = case.features.kept, case.reference_features.kept
        n = min(len(ours), len(real))
        ours, real = ours[:n], real[:n]
        precise, recalled = precision_recall(real, ours, k=3)
        density, covered = density_coverage(real, ours, k=5)
        three, five = (protocol(case) | {"k": k} for k in (3, 5))
        balls = density.double().numpy()  # a number of balls, not a share
        return [
            share_figure("precision", precise, three, "higher"),
            share_figure("recall", recalled, three, "higher"),
            mean_figure("density", balls, five, "higher", case.seed),
            share_figure("coverage", covered, five, "higher"),
        ]


class Labels:
    """What the classifier reads: whether it is what was asked for; else, whether the classes are as
    frequent as in the reference; and the Inception score's formula."""

    def obstacle(self, case: Case) -> str | None:
        return case.no_features

    def __call__(self, case: Case) -> list[Figure]:
        logits, how = case.features.logits, {"extractor": case.extractor.name}
        p, n = logits.softmax(1).numpy(), len(logits)
        value, (low, high) = classifier_score(p), centred_bootstrap(p, classifier_score, case.seed)
        figures = [Figure("classifier_score", value, n, how, low, high, "higher")]
        if not case.extractor.labels:
            return figures
        if case.y is not None:
            right = label_accuracy(logits, case.y[:n])
            return [share_figure("accuracy", right, how, "higher"), *figures]
        if (wanted := labels(case.reference)) is None:
            return figures
        law = np.bincount(wanted.numpy(), minlength=logits.shape[1]).astype(float)
        read = logits.argmax(1).numpy()
        how = protocol(case)
        return [
            Figure("class_variation", total_variation(read, law), n, how, better="lower"),
            Figure("class_p", class_law_p(read, law), n, how),
            *figures,
        ]


def at_least(number: int, case: Case) -> str | None:
    n, m = len(case.samples), len(case.reference)
    return None if min(n, m) >= number else f"needs {number} samples or more, not {min(n, m)}"


def protocol(case: Case) -> dict[str, Any]:
    return {"reference": str(case.reference), "extractor": case.extractor.name}
