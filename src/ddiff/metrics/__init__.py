"""What samples are worth, in figures that carry their protocol. The names load when first used, so
that a training that measures nothing need not wait for scipy."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddiff.metrics.by_features import FID, KID, Labels, PrecisionRecall
    from ddiff.metrics.by_pairs import Memorisation, Pairs
    from ddiff.metrics.by_volumes import Pieces, Sets, SolidFit, SphereLaw
    from ddiff.metrics.features import classifier, inception

__all__ = [
    "FID",
    "KID",
    "Labels",
    "Memorisation",
    "Pairs",
    "Pieces",
    "PrecisionRecall",
    "Sets",
    "SolidFit",
    "SphereLaw",
    "classifier",
    "inception",
]

_MODULES = {
    "FID": "by_features",
    "KID": "by_features",
    "Labels": "by_features",
    "Memorisation": "by_pairs",
    "Pairs": "by_pairs",
    "Pieces": "by_volumes",
    "PrecisionRecall": "by_features",
    "Sets": "by_volumes",
    "SolidFit": "by_volumes",
    "SphereLaw": "by_volumes",
    "classifier": "features",
    "inception": "features",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
