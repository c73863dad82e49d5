"""Reading labels off data: what quality of conditional samples is measured with."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddiff.system.bounds import At
from ddiff.system.errors import ConfigError
from ddiff.system.phases import phase
from ddiff.training.modules.learner import Batch, Learner

Smoothing = Annotated[float, At(least=0, below=1)]
Shift = Annotated[int, At(least=0, most=1024)]


class Classifier(Learner):
    """Cross-entropy on x_0 itself; the net is (x [B, C, *S]) -> logits [B, K]."""

    conditional = True
    generative = False
    inputs = ("x",)
    suited = ("a net that reads labels", "net=reader")
    instead = "is a classifier; it makes no samples"

    def __init__(self, label_smoothing: Smoothing = 0.0, shift: Shift = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"module.label_smoothing must be in [0, 1), not {label_smoothing}")
        if shift < 0:
            raise ConfigError(f"module.shift must be 0 or more, not {shift}")
        self.label_smoothing, self.shift = label_smoothing, shift

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        assert y is not None
        with phase("noise"):
            _, g = self.next_words(x.device)
            x = shifted(x, self.shift, g)
        with phase("forward"):
            logits = self.logits(self.net, x)
        with phase("loss"):
            losses = F.cross_entropy(
                logits, y, reduction="none", label_smoothing=self.label_smoothing
            )
            loss = losses.mean()
        self.latest["train/loss"] = loss.detach()
        return {"loss": loss, "losses": losses.detach()}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        assert y is not None
        number = self.val_number(batch_idx)
        if number is None:
            return
        logits = self.logits(self.ema, x)
        metrics = {
            "val/loss": F.cross_entropy(logits, y),
            "val/accuracy": (logits.argmax(1) == y).float().mean(),
        }
        self.val_batches.append((number, len(x), metrics))

    def logits(self, net: torch.nn.Module, x: Tensor) -> Tensor:
        with self.precision.autocast(x.device):
            return net(x).float()


def shifted(x: Tensor, most: int, g: torch.Generator) -> Tensor:
    """Every sample [C, *S] moved by up to `most` along each axis; the border is repeated."""
    if most == 0:
        return x
    dims = x.ndim - 2
    padded = F.pad(x, (most,) * (2 * dims), mode="replicate")
    starts = torch.randint(2 * most + 1, (len(x), dims), generator=g, device=x.device).tolist()
    moved = [
        sample[(slice(None), *(slice(s, s + n) for s, n in zip(start, x.shape[2:], strict=True)))]
        for sample, start in zip(padded, starts, strict=True)
    ]
    return torch.stack(moved)
