"""A clock around every operation of a training step, forward and backward, by kind."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("addmm", "mm", "bmm", "baddbmm")
UPDATE = ("adam", "grad_norm", "fused_adam", "foreach", "linalg_vector_norm")
NORM = ("group_norm", "silu")
COPIES = ("_to_copy", "copy_", "clone")
RANDOM = ("random_", "bernoulli_", "native_dropout", "ge", "randn", "normal_", "add_noise")
SKIPS = ("cat", "split")


class Clock(TorchDispatchMode):
    """Counter of seconds, FLOPs (of the plain algorithm) and bytes of what runs inside, by kind."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.now = now
        self.seconds: dict[str, float] = defaultdict(float)
        self.flops: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, float] = defaultdict(float)
        self.others: dict[str, float] = defaultdict(float)  # seconds, by name, of the last kind

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        started = self.now()
        out = func(*args, **(kwargs or {}))
        elapsed = self.now() - started
        name = str(func).split(".")[1]
        kind, flops = described(name, args, out)
        self.seconds[kind] += elapsed
        self.flops[kind] += flops
        self.bytes[kind] += moved(args, out)
        if kind == "elementwise, sums, rest":
            self.others[name] += elapsed
        return out


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)


def moved(args: tuple, out: Any) -> float:
    """Bytes read and written once; nothing for a view."""
    inputs = list(tensors(args))
    storages = {x.untyped_storage().data_ptr() for x in inputs}
    outputs = list(tensors(out))
    if outputs and all(x.untyped_storage().data_ptr() in storages for x in outputs):
        in_place = any(x is y for x in outputs for y in inputs)
        if not in_place:
            return 0.0
    return sum(x.numel() * x.itemsize for x in (*inputs, *outputs))


def described(name: str, args: tuple, out: Any) -> tuple[str, float]:
    """The kind of an operation, and its FLOPs where products are its work."""
    if name in ("convolution", "convolution_backward"):
        return of_convolution(name, args, out)
    if name == "winograd_plain":
        x, weight = args[:2]
        which = "backward, inputs" if args[3] else "forward"
        return f"convolution 3, Winograd, {which}", products(weight, x)
    if name == "tiled_conv":
        return "convolution 3, forward", products(args[1], args[0])
    if name == "tile_gradient":
        return "convolution 3, tiles, backward, weights", products(args[2], args[1])
    if name == "winograd_gradient":
        return "convolution 3, Winograd, backward, weights", products(args[2], args[1])
    if "attention" in name:
        backward = "backward" in name
        q, k = args[1:3] if backward else args[:2]
        flops = (10 if backward else 4) * q.numel() * k.shape[-2]
        return f"attention{', backward' if backward else ''}", flops
    if name in PRODUCTS:
        a, b = args[-2:]
        return "products: linear layers, attention", 2 * a.numel() * b.shape[-1]
    for kind, names in (
        ("optimiser, clipping, averages", UPDATE),
        ("group norm and SiLU, of one operation", NORM),
    ):
        if any(word in name for word in names):
            return kind, 0
    for kind, names in (
        ("casts and copies", COPIES),
        ("random numbers", RANDOM),
        ("concatenation of skips", SKIPS),
    ):
        if name in names:
            return kind, 0
    return "elementwise, sums, rest", 0


def products(weight: Tensor, places: Tensor) -> float:
    """Multiplications and additions where every place meets the whole kernel once."""
    return 2 * weight.numel() * len(places) * math.prod(places.shape[2:])


def of_convolution(name: str, args: tuple, out: Any) -> tuple[str, float]:
    if name == "convolution":
        x, weight, _, stride, _, _, transposed, *_ = args
        y, passes, which = out, 1, "forward"
    else:
        y, x, weight, _, stride, _, _, transposed, _, _, mask = args
        passes, which = sum(mask[:2]), "backward"
    kernel = "transposed" if transposed else str(weight.shape[-1])
    kind = f"convolution {kernel}{f', stride {stride[0]}' if stride[0] > 1 else ''}, {which}"
    return kind, passes * products(weight, x if transposed else y)
