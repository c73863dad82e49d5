"""What a classifier says of samples."""

import numpy as np
from scipy.special import rel_entr
from scipy.stats import chisquare
from torch import Tensor


def label_accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Whether the largest of the logits [N, K] is that of the label [N] asked for."""
    return logits.argmax(1) == y


def classifier_score(probabilities: np.ndarray) -> float:
    """exp(mean KL(p(y|x) || p(y))) of [N, K], as the Inception score (Salimans et al. 2016) with
    any classifier: 1 where samples cannot be told apart, K where each is surely of one class and
    all classes are equally many. Published scores are means over ten parts of the samples."""
    p = np.asarray(probabilities, dtype=np.float64)
    return float(np.exp(rel_entr(p, p.mean(0)).sum(1).mean()))


def total_variation(labels: np.ndarray, law: np.ndarray) -> float:
    """Half the summed difference between how often labels [N] occur and their wanted law [K],
    which need not be normalised.

    N true samples do not reach 0 but about sum_k sqrt(law_k (1 - law_k) / (2 pi N)).
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
    """Found and expected, [K]."""
    law = np.asarray(law, dtype=np.float64)
    return np.bincount(labels, minlength=len(law)), len(labels) * law / law.sum()
