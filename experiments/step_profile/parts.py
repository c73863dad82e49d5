"""Parts of the CIFAR net's step alone, in the ways they can be done; and the loaders."""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.data.loading import CountFrom, Loader, TrainBatches, loader
from ddiff.data.source import Stored
from ddiff.nets.blocks import Dropout, Upsample

BATCH, TOKENS, CHANNELS = 16, 256, 256
SHAPE = (BATCH, CHANNELS, 16, 16)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return torch.matmul(scores.softmax(-1), v)


def attention(how: Callable[..., Tensor], heads: int) -> Callable[[], object]:
    shape = (BATCH, TOKENS, 3, heads, CHANNELS // heads)
    qkv = torch.randn(shape).bfloat16().requires_grad_()

    def call() -> None:
        how(*qkv.permute(2, 0, 3, 1, 4)).sum().backward()

    return call


def layer(made: nn.Module) -> Callable[[], object]:
    made = made.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.randn(SHAPE).bfloat16().contiguous(memory_format=torch.channels_last)
    x.requires_grad_()

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            y = made(x)
        y.backward(y.detach())

    return call


def kernel_of(upsample: Upsample) -> Callable[[], object]:
    return lambda: upsample.kernel().sum().backward()


def medians(
    calls: dict[str, Callable[[], object]], rounds: int, now: Callable[[], float]
) -> dict[str, float]:
    """Seconds a call; the calls take turns, and the first round only warms."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(max(3, rounds) + 1):
        for name, call in calls.items():
            started = now()
            call()
            seconds[name].append(now() - started)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def parts(rounds: int, now: Callable[[], float]) -> dict[str, dict[str, float]]:
    """Milliseconds of each, forward and backward."""
    sdpa = F.scaled_dot_product_attention
    weights = [torch.randn(CHANNELS, CHANNELS, 3, 3) for _ in range(60)]  # 35.4 M numbers
    calls = {
        f"attention, {heads} heads of {CHANNELS // heads}, {name}": attention(how, heads)
        for heads in (1, 4, 8)
        for name, how in (("torch's (flash)", sdpa), ("two products and softmax", plain_attention))
    } | {
        "dropout 0.1 by 16-bit numbers": layer(Dropout(0.1).train()),
        "dropout 0.1 of torch": layer(nn.Dropout(0.1).train()),
        "upsampling": layer(Upsample(2, CHANNELS)),
        "upsampling, its kernel alone": kernel_of(Upsample(2, CHANNELS)),
        "casts of 35.4 M weights to bf16": lambda: [weight.bfloat16() for weight in weights],
    }
    return {name: {"ms": 1e3 * median} for name, median in medians(calls, rounds, now).items()}


def loaders(batches: int) -> dict[str, dict[str, float]]:
    """Milliseconds a batch of the first, and samples a second, by number of worker processes."""
    found = {}
    for name, size, make in (
        ("spheres, 64^3", 8, lambda n: configured("spheres", 8, n)),
        ("shapes, 64^3", 8, lambda n: configured("shapes", 8, n)),
        ("digits", 128, lambda n: configured("digits", 128, n)),
        ("50,000 images of 3 x 32 x 32, flipped", 16, lambda n: images(16, n)),
        ("50,000 images of 3 x 32 x 32, flipped", 128, lambda n: images(128, n)),
    ):
        row = {}
        for workers in (0, 1, 2):
            seconds = seconds_a_batch(make(workers), batches)
            if not workers:
                row["ms a batch, no workers"] = 1e3 * seconds
            row[f"samples/s, {workers} workers"] = size / seconds
        found[f"{name}, {size}"] = row
    return found


def configured(data: str, batch: int, workers: int) -> Loader:
    options = [f"data={data}", f"budget.batch_size={batch}", f"data.num_workers={workers}"]
    cfg = train_options(*options)
    made = build(cfg.data)
    made.setup("fit")
    return made.train_dataloader()


def images(batch: int, workers: int) -> Loader:
    """Loader of random images of CIFAR-10's size, stored as its data set stores them."""
    source = Stored(torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8), None)
    return loader(TrainBatches(source, batch, 0, flip=True), CountFrom(0), workers, False)


def seconds_a_batch(batches: Loader, count: int) -> float:
    """The mean, as what a device that is faster than the loader waits for."""
    stream = iter(batches)
    for _ in range(5):
        next(stream)
    started = time.perf_counter()
    for _ in range(count):
        next(stream)
    return (time.perf_counter() - started) / count
