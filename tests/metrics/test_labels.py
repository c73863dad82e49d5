"""Against plain loops, scikit-learn's scores, simulation and known cases."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from ddiff.metrics.by_features import Labels, class_law_p, classifier_score, total_variation


def test_accuracy_is_of_each_sample():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0], [-5.0, -4.0, -4.5]])
    case: Any = SimpleNamespace(
        features=SimpleNamespace(logits=logits), y=torch.tensor([0, 1, 1]), seed=0,
        extractor=SimpleNamespace(name="by hand", labels=True),
    )  # fmt: skip
    accuracy, *_ = Labels()(case)
    assert (accuracy.name, accuracy.value) == ("accuracy", 2 / 3)


def test_the_score_is_one_where_samples_cannot_be_told_apart():
    assert classifier_score(np.tile([0.5, 0.2, 0.3, 0.0], (30, 1))) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 10])
def test_the_score_is_the_number_of_classes_of_sure_and_balanced_samples(classes: int):
    sure = np.tile(np.eye(classes), (7, 1))
    assert classifier_score(sure) == pytest.approx(classes, rel=1e-12)
    assert classifier_score(sure[: 7 * classes : classes]) == pytest.approx(1)  # one class only


def test_the_score_of_single_precision_against_loops():
    p = np.random.default_rng(0).dirichlet(np.full(5, 0.3), 200).astype(np.float32)
    rows = p.astype(float).tolist()
    marginal = [sum(row[k] for row in rows) / 200 for k in range(5)]
    divergence = sum(
        q * np.log(q / m) for row in rows for q, m in zip(row, marginal, strict=True) if q > 0
    )
    assert classifier_score(p) == pytest.approx(np.exp(divergence / 200), rel=1e-10)


def test_total_variation():
    labels = np.array([0, 0, 0, 1])
    assert total_variation(labels, np.array([0.5, 0.25, 0.25])) == pytest.approx(0.25)
    assert total_variation(labels, np.array([3, 1])) == 0  # counts will do as a law
    assert total_variation(labels, np.array([0, 0, 1])) == 1


def test_the_total_variation_of_true_samples_is_as_stated():
    random, law, n = np.random.default_rng(1), np.array([0.5, 0.3, 0.2]), 400
    found = [total_variation(random.choice(3, n, p=law), law) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(
        np.sqrt(law * (1 - law) / (2 * np.pi * n)).sum(), rel=0.05
    )


def test_p_values_of_true_samples_are_uniform_and_of_others_small():
    random, law = np.random.default_rng(2), np.array([0.4, 0.3, 0.2, 0.1, 0.0])
    values = [class_law_p(random.choice(5, 1000, p=law), law) for _ in range(400)]
    assert kstest(values, "uniform").pvalue > 0.01
    assert class_law_p(random.choice(4, 1000), law) < 1e-10
    assert class_law_p(np.array([0, 1, 4]), law) == 0  # what cannot be


def test_p_value_of_a_coin():
    """60 heads of 100: (60 - 50)^2 / 50 * 2 = 4, two standard deviations."""
    assert class_law_p(np.repeat([0, 1], [60, 40]), np.array([1, 1])) == pytest.approx(
        0.0455003, 1e-5
    )
