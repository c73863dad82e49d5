"""Data sets. The names load when first used, so that `--help` need not wait for torch."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddiff.data.base import Data
    from ddiff.data.cifar import CIFAR10
    from ddiff.data.digits import Digits
    from ddiff.data.images import Images
    from ddiff.data.latent import Latent
    from ddiff.data.mnist import MNIST, FashionMNIST
    from ddiff.data.shapes import Shapes
    from ddiff.data.spheres import Spheres
    from ddiff.data.voxels import Voxels

__all__ = ["CIFAR10", "MNIST", "Data", "Digits", "FashionMNIST", "Images", "Latent", "Shapes",
           "Spheres", "Voxels"]  # fmt: skip
_MODULES = {"CIFAR10": "cifar", "Data": "base", "FashionMNIST": "mnist"}  # others: as the name


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, name.lower())}"), name)


def __dir__() -> list[str]:
    return __all__
