"""Peak memory of one run, by what the device can tell."""

from collections.abc import Callable

import psutil
import torch
from torch import Tensor

from ddiff.system.resources import give_back_freed, peak_memory, restart_peak

WHAT = {  # the words beside the figures
    "cuda": "memory: peak of torch's allocator in a batch, weights included, other rows left out",
    "cpu": "memory: how far a batch raises the process's resident memory; weights and code, which "
    "stay between batches, are not in it",
}


class Memory:
    """Made before a contestant is built. `shared` bytes, of the net it starts from, count as its
    own on a GPU."""

    def __init__(self, device: torch.device, shared: int) -> None:
        self.device = device
        give_back_freed(device)
        if device.type == "cuda":
            self.others = torch.cuda.memory_allocated(device) - shared
            self.others_reserved = torch.cuda.memory_reserved(device) - shared

    def peak_of(self, run: Callable[[], Tensor]) -> tuple[Tensor, dict[str, int]]:
        """What the run made, and the bytes: empty where they cannot be told."""
        give_back_freed(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            made = run()
            torch.cuda.synchronize(self.device)
            return made, {
                "allocated": torch.cuda.max_memory_allocated(self.device) - self.others,
                "reserved": torch.cuda.max_memory_reserved(self.device) - self.others_reserved,
            }
        before = psutil.Process().memory_info().rss if restart_peak() else None
        made = run()
        return made, {} if before is None else {"resident": max(0, peak_memory() - before)}
