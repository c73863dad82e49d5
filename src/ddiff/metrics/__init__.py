"""Metrics of samples: figures that carry their protocol.

The names load when first used, so that a training that measures nothing need not wait for scipy.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "by_conditions": ("Conditions",),
    "by_features": ("FID", "KID", "Labels", "PrecisionRecall"),
    "by_pairs": ("LPIPS", "Memorisation", "Pairs"),
    "by_volumes": ("Pieces", "Sets", "SolidFit", "SphereLaw"),
    "ensembles": ("Ensembles",),
    "features": ("classifier", "inception"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULES)
