"""Devices of the kernels' tests: the CPU, a GPU where there is one, CUDA emulated on the CPU."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch

from ddiff.kernels import calling
from tests.emulation import ORDERS, Emulated

PROCESSORS = {"forward": 1, "reverse": 3, "shuffled": 132}
gpu = cache(Emulated)


@pytest.fixture(
    params=[
        "cpu",
        *(["cuda"] if torch.cuda.is_available() else []),
        *(f"emulated {order}" for order in ORDERS),
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name that torch has for it. Under the emulation memory that nobody wrote is NaN."""
    kind, _, order = request.param.partition(" ")
    if kind != "emulated":
        yield kind
        return
    emulated = gpu(order, PROCESSORS[order])
    monkeypatch.setattr(calling, "gpu_of", lambda like: emulated)
    torch.use_deterministic_algorithms(True)
    yield "cpu"
    torch.use_deterministic_algorithms(False)
