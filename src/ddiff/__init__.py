"""ddiff: a laboratory for efficient diffusion models.

What a notebook or a script needs:

    load        a run, a checkpoint or an exported file -> a `Model` to sample from
    loss        the loss of a batch
    solve       the reverse process, step by step
    nets, schedules, objectives, timesteps, solvers, guidance
                the parts that `loss` and `solve` are made of

Nothing is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddiff import nets
    from ddiff.diffusion import guidance, loss, objectives, schedules, solve, solvers, timesteps
    from ddiff.model import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "guidance", "load", "loss", "nets", "objectives", "schedules", "solve",
           "solvers", "timesteps"]  # fmt: skip

_MODULES = {"nets": "ddiff.nets"} | {
    name: f"ddiff.diffusion.{name}"
    for name in ("guidance", "objectives", "schedules", "solvers", "timesteps")
}
_NAMES = {"Model": "ddiff.model", "load": "ddiff.model", "loss": "ddiff.diffusion",
          "solve": "ddiff.diffusion"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'ddiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
