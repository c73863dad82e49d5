"""The predicted peak against the allocator's, under a hard cap. Run by `make gpu`."""

from pathlib import Path

import pytest
import torch

from ddiff.memory import Tally, predicted
from ddiff.training.building import build_trainer
from ddiff.training.callbacks import Checkpoints, StopOnNaN
from ddiff.training.loggers import TensorBoard
from tests.memory.subjects import IN_2D, IN_3D, built
from tests.support.gpu import DEVICE, DRY, needs_gpu, not_dry

pytestmark = needs_gpu
LARGER = ("data.size=64", "net.channels=[32,48,64]", "trainer=gpu")  # libraries' scratch is small
LARGER_2D = ("budget.batch_size=512", "net.channels=[64,128]", "trainer=gpu")
if DRY:
    LARGER = LARGER_2D = ("trainer=cpu",)
CASES = {
    "2D": (*IN_2D, *LARGER_2D),
    "3D": (*IN_3D, *LARGER),
    "3D bf16": (*IN_3D, *LARGER, "precision=bf16"),
    "3D checkpointed": (*IN_3D, *LARGER, "net.checkpoint_levels=[0,1]"),
    "3D in parts": (*IN_3D, *LARGER, "trainer.accumulate_grad_batches=2"),
    "3D native": (*IN_3D, *LARGER, "backend=native"),
}


def trained(words: tuple[str, ...], folder: Path) -> int:
    """Three steps; the most bytes that the allocator gave, counted where there is none."""
    three = ("budget.max_steps=3", "budget.log_every=1", "trainer.limit_val_batches=0")
    cfg, data, module, precision = built(*words, *three, device=DEVICE)
    nan = StopOnNaN()
    callbacks = [nan, Checkpoints(folder, {}, 2, nan)]
    trainer = build_trainer(cfg, folder, TensorBoard(folder), callbacks, precision)
    if DRY:
        tally = Tally()
        tally.name("weights", [*module.parameters(), *module.buffers()])
        with tally:
            tally.begin("all")
            trainer.fit(module, data)
        return tally.peaks()[0].total
    torch.cuda.reset_peak_memory_stats()
    trainer.fit(module, data)
    return torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("name", CASES)
def test_predicted_and_allocated(name: str, tmp_path: Path) -> None:
    """Within 10%, and the scratch of cuBLAS and cuDNN above, which no dry run knows."""
    cfg, _, module, _ = built(*CASES[name], device=DEVICE)
    expected = next(p.total for p in predicted(cfg, module, DEVICE) if p.phase == "training")
    held = 0 if DRY else torch.cuda.memory_allocated()
    found = trained(CASES[name], tmp_path) - held
    assert 0.9 * expected < found < 1.1 * expected + (0 if DRY else 64e6)


@not_dry("a CPU's memory has no cap that torch keeps")
def test_a_setting_that_is_said_to_fit_fits_under_a_hard_cap(tmp_path: Path) -> None:
    words = (*IN_3D, *LARGER, "precision=bf16")
    cfg, _, module, _ = built(*words, device=DEVICE)
    expected = next(p.total for p in predicted(cfg, module, DEVICE) if p.phase == "training")
    whole = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        (1.25 * expected + torch.cuda.memory_reserved() + 128e6) / whole
    )
    try:
        trained(words, tmp_path / "fits")
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.6 * expected / whole)
        with pytest.raises(torch.OutOfMemoryError):
            trained(words, tmp_path / "does_not")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
