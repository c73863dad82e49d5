"""Plans in files: tables that `python -m ddiff.plan` has fitted to a net.

A plan in a file is a mapping of plain values: `num_steps`, `T`, the N + 1 `times` with the `abar`
of each, the columns `x`, `x_0` and `x_0_previous`, and `fitted`, what they were fitted to.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch

from ddiff.diffusion.schedules import Schedule
from ddiff.diffusion.solvers import Plan
from ddiff.system.bounds import Count
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import read_plan

COLUMNS = ("x", "x_0", "x_0_previous")


def learned(
    schedule: Schedule,
    path: str,
    num_steps: Count | None = None,
    plan: dict[str, Any] | None = None,
) -> Plan:
    """The plan that `python -m ddiff.plan` has fitted to a net: deterministic, without weights of
    guidance, which the guidance itself gives.

    - `path`: the file.
    - `num_steps`: the number of its steps; None takes what the file has.
    - `plan`: what the file held when a config was made. It is used instead of the file, unless
      `path` is another one now.

    Raises ConfigError if the file is missing, has another number of steps, or belongs to another
    schedule, and DdiffError if it is damaged.
    """
    if plan is None or plan.get("path", path) != path:
        plan, num_steps = read_plan(path), num_steps if plan is None else None
    _check(plan, path)
    times = torch.tensor(plan["times"])
    if num_steps not in (None, len(times) - 1):
        raise ConfigError(
            f"solver.num_steps: the plan in {path} has {len(times) - 1} steps, not {num_steps}; "
            "fit another with python -m ddiff.plan"
        )
    there = torch.tensor(plan["abar"], dtype=torch.float64)
    if plan["T"] != schedule.T or not torch.allclose(schedule.abar[times], there, 1e-6, 1e-12):
        raise ConfigError(
            f"solver.path: the plan in {path} was fitted with another schedule of noise; "
            "fit one to this net with python -m ddiff.plan"
        )
    x, x_0, x_0_previous = (torch.tensor(plan[name], dtype=torch.float64) for name in COLUMNS)
    noise = torch.zeros_like(x)
    return Plan(schedule, times, x, x_0, x_0_previous, noise, fitted=plan["fitted"])


def written(plan: Plan, fitted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deterministic plan as plain values, which `learned` reads."""
    assert not plan.stochastic
    assert plan.memory < 2
    return {
        "num_steps": len(plan),
        "T": plan.schedule.T,
        "times": plan.times.tolist(),
        "abar": plan.schedule.abar[plan.times].tolist(),
        **{name: getattr(plan, name).tolist() for name in COLUMNS},
        "fitted": dict(fitted),
    }


def _check(plan: Mapping[str, Any], path: str) -> None:
    """Raise DdiffError if the values are not those of a plan: a file may be a stranger's."""
    times, T = plan.get("times"), plan.get("T")
    if (
        isinstance(times, list)
        and all(type(t) is int for t in times)
        and type(T) is int
        and len(times) > 1
        and times[0] <= T
        and times[-1] == 0 < times[-2]
        and all(s >= t for s, t in pairwise(times))
        and all(_numbers(plan.get(name), len(times) - 1) for name in COLUMNS)
        and _numbers(plan.get("abar"), len(times))
        and plan["x_0_previous"][0] == 0
        and isinstance(plan.get("fitted"), dict)
    ):
        return
    raise DdiffError(f"solver.path: {path} does not hold a plan of ddiff.plan")


def _numbers(values: Any, size: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == size
        and all(type(v) in (int, float) and math.isfinite(v) for v in values)
    )
