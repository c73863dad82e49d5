"""memory_budget_gb: what fits is said, what does not is refused with words that do fit."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ddiff.config.shell import explain
from ddiff.memory import LEVERS, check_budget, predicted
from ddiff.memory.budget import GB, largest
from ddiff.system.errors import ConfigError
from tests.memory.subjects import CPU, IN_2D, IN_3D, LARGE, built
from tests.support.runs import ddiff

FEW = ("sampling.num_samples=1", "trainer.limit_val_batches=0")


def peak_of(*overrides: str) -> float:
    cfg, _, module, _ = built(*overrides)
    return largest(predicted(cfg, module, CPU)).total / GB


def refusal(share: float, *overrides: str) -> tuple[float, str]:
    """The budget, a share of what the training takes, and what is said to it."""
    budget = share * peak_of(*overrides)
    cfg, _, module, _ = built(*overrides, f"memory_budget_gb={budget}")
    with pytest.raises(ConfigError) as caught:
        check_budget(cfg, module, CPU)
    return budget, str(caught.value)


def advice(text: str) -> list[str]:
    found = re.search(r"what fits: (.*?) \(", text)
    assert found, text
    return found[1].split(" ")


def test_what_fits_is_said(capsys: pytest.CaptureFixture) -> None:
    cfg, _, module, _ = built(*IN_2D, *FEW, "memory_budget_gb=1")
    check_budget(cfg, module, CPU)
    said = capsys.readouterr().out
    for word in ("weights", "averaged weights", "gradients", "optimiser", "activations", "batch"):
        assert re.search(rf"{word} \d\.\d{{3}}", said), word


@pytest.mark.parametrize(
    ("words", "share", "first"),
    [
        pytest.param(  # what keeps the arithmetic comes first
            LARGE, 0.95, "net.checkpoint_levels=[0]", marks=pytest.mark.slow
        ),
        pytest.param(LARGE, 0.45, "trainer.accumulate_grad_batches=", marks=pytest.mark.slow),
        pytest.param(
            (*LARGE, "budget.batch_size=1", "precision=bf16"),
            0.3,
            "net.patch_size=2",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_words_to_paste_do_fit(words: tuple[str, ...], share: float, first: str) -> None:
    budget, text = refusal(share, *words, *FEW)
    pasted = advice(text)
    assert any(word.startswith(first) for word in pasted), pasted
    assert peak_of(*words, *FEW, *pasted) <= budget
    options = dict(word.split("=") for word in pasted)
    if "budget.batch_size" in options:  # the effective batch stays
        parts = int(options["trainer.accumulate_grad_batches"])
        assert parts * int(options["budget.batch_size"]) == 4


@pytest.mark.slow
def test_samples_that_do_not_fit_are_drawn_in_smaller_batches() -> None:
    words = (*LARGE, "budget.batch_size=1", "sampling.num_samples=16", "sampling.batch_size=16")
    budget, text = refusal(0.6, *words)
    (word,) = advice(text)
    assert word.startswith("sampling.batch_size=")
    assert peak_of(*words, word) <= budget


@pytest.mark.slow
def test_where_nothing_fits_the_smallest_is_named() -> None:
    _, _, module, _ = built(*IN_2D, *FEW)
    weights = sum(p.nbytes for p in module.net.parameters()) / GB
    _, text = refusal(4 * weights / peak_of(*IN_2D, *FEW), *IN_2D, *FEW)  # Adam takes 5
    found = re.search(r"smallest reachable is (.*?) \((\d\.\d+) GB", text)
    assert found
    assert peak_of(*IN_2D, *FEW, *found[1].split(" ")) == pytest.approx(float(found[2]), abs=6e-4)


@pytest.mark.parametrize("share", [1e-6, 0.9])
def test_less_than_the_weights_is_refused_without_a_dry_run(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, _, module, _ = built(*IN_2D, *FEW)
    weights = sum(p.nbytes for p in module.net.parameters()) / GB
    cfg = replace(options, memory_budget_gb=3 * share * weights)  # with averages and gradients
    monkeypatch.setattr("ddiff.memory.budget.predicted", None)
    with pytest.raises(ConfigError, match=f"alone take {3 * weights:.3f} GB"):
        check_budget(cfg, module, CPU)


def test_a_refused_training_leaves_nothing_behind(tmp_path: Path) -> None:
    pulled = ("net.patch_size=4", "net.input_skip=true", "backend=native", "precision=bf16")
    done = ddiff("train", *IN_3D, *pulled, *FEW, "memory_budget_gb=0.001", cwd=tmp_path)
    assert done.status == 2
    assert done.err.startswith("ddiff: memory_budget_gb=0.001: ")
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_out_of_memory_names_the_same_levers() -> None:
    text, status = explain(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "train")
    assert status == 1
    assert all(lever in text for lever in LEVERS)
