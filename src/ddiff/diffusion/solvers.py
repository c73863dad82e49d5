"""Solvers of the reverse process. A solver fills a table (a Plan); one loop executes every plan:

    pred = guidance of the net's predictions, w      w: the weight of guidance in this step
    x_0  = clamp(p x + q pred)                       p, q: from the objective at this t
    x'   = a x + b x_0 + c x_0_previous + e x_0_before + d noise      a .. e: from the solver

x_0_previous is the x_0 of the row before, and x_0_before that of the row before this one.
Notation: sigma_t = sqrt(1 - abar_t), alpha_t = sqrt(abar_t), lambda_t = log(alpha_t / sigma_t).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ddiff.diffusion.guidance import ClassifierFree, Guidance, Net, Step
from ddiff.diffusion.objectives import Objective
from ddiff.diffusion.schedules import Schedule
from ddiff.system.bounds import At, Count, Share
from ddiff.system.errors import ConfigError
from ddiff.system.phases import phase
from ddiff.system.told import encoded

Named = Literal["linear", "trailing", "leading", "quadratic", "logsnr", "karras"]
Spacing = Named | list[int]  # or the times themselves, without the 0 at the end
Line = Literal["flow", "sigma"]
Offset = Annotated[int, At(least=0)]


@dataclass(frozen=True, eq=False)
class Plan:
    """A solver's table: times, and for each of N rows five coefficients and a guidance weight.

    Row i evaluates the net at times[i] and goes to times[i + 1]. The times fall from T at most to 0
    at the end; a row that stays at its time corrects the row before it.
    """

    schedule: Schedule
    times: Tensor  # [N + 1] int64
    x: Tensor  # a, [N] float64; the other columns have the same shape and type
    x_0: Tensor  # b
    x_0_previous: Tensor  # c
    noise: Tensor  # d
    weight: Tensor | None = None  # w; None: 0 in every step
    shortcuts: bool = False  # the net is also told how far every step goes
    fitted: Mapping[str, Any] | None = None  # what it was fitted to (`plans`); None: to no net
    x_0_before: Tensor | None = None  # e; None: 0 in every step

    def __post_init__(self) -> None:
        assert self.times[-1] == 0
        assert bool((self.times[1:] <= self.times[:-1]).all())
        assert bool((self.times[:-1] > 0).all())
        columns = torch.stack([*self.coefficients, self.weights])
        assert columns.dtype == torch.float64
        assert columns.shape == (6, len(self))
        assert bool(torch.isfinite(columns).all())

    def __len__(self) -> int:
        return len(self.times) - 1

    @property
    def coefficients(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The columns a, b, c, d and e, each [N] float64."""
        before = torch.zeros_like(self.x) if self.x_0_before is None else self.x_0_before
        return self.x, self.x_0, self.x_0_previous, self.noise, before

    @property
    def memory(self) -> Literal[0, 1, 2]:
        """The number of earlier estimates of x_0 that the rows need at most."""
        *_, c, _, e = self.coefficients
        return 2 if bool((e != 0).any()) else 1 if bool((c != 0).any()) else 0

    @property
    def weights(self) -> Tensor:
        """The weight of guidance in every step, [N] float64."""
        return torch.zeros_like(self.x) if self.weight is None else self.weight

    @property
    def told(self) -> Tensor:
        """The times that the net is told, [N] int64: t - 1, and with shortcuts the length too."""
        t = self.times[:-1]
        return encoded(t, self.times[1:] if self.shortcuts else t)

    def guided_by(self, guidance: Guidance) -> "Plan":
        """Return this plan with the weights of `guidance`."""
        return replace(self, weight=guidance.weights(self))

    @property
    def stochastic(self) -> bool:
        """True if any step adds noise."""
        return bool((self.noise != 0).any())

    def table(self, objective: Objective) -> Tensor:
        """Return the table for this objective, [N, 8] float64: rows of p, q, a, b, c, d, w, e.

        Raises ConfigError if the objective does not suit the schedule, or if the plan was fitted
        to a net with another objective.
        """
        objective.check(self.schedule)
        there, here = (self.fitted or {}).get("objective"), type(objective).__name__.lower()
        if there not in (None, here):
            raise ConfigError(
                f"solver: the plan was fitted to a net with objective {there}, and this one has "
                f"{here}; fit one to this net with python -m ddiff.plan"
            )
        abar = self.schedule.abar[self.times[:-1]]
        p, q = objective.coefficients(abar.sqrt(), (1 - abar).sqrt())
        *usual, before = self.coefficients
        return torch.stack([p, q, *usual, self.weights, before], dim=1)


class State(NamedTuple):
    """The state after a step: the new x, the estimate of x_0 used for it, and the time reached."""

    x: Tensor
    x_0: Tensor
    t: int


def solve(
    net: Net,
    plan: Plan,
    objective: Objective,
    x: Tensor,
    noise: Callable[[int], Tensor] | None = None,
    clamp: float | None = None,
    y: Tensor | None = None,
    guidance: Guidance | None = None,
    known: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[State]:
    """Run the plan from x ~ N(0, I) [B, C, *S] and yield every state; the last is the sample.

    - `net`: (x_t [B, C, *S], t - 1 [B], y [B] or None) -> pred [B, C, *S]; for a plan with
      shortcuts, t - 1 holds the length of the step too (`ddiff.system.told`).
    - `noise`: `noise(step)` returns fresh noise shaped like x; called only for steps that need it.
      None draws it with torch.
    - `clamp`: bound on the absolute value of every estimate of x_0; None sets no bound.
    - `y`: labels [B]; None: no labels.
    - `guidance`: its own weights apply where the plan has none; None: no guidance.
    - `known`: replaces every estimate of x_0 by one that agrees with what is known of the samples
      (`ddiff.diffusion.known`); None: nothing is known.
    """
    guidance = guidance or ClassifierFree()
    plan = plan.guided_by(guidance) if plan.weight is None else plan
    times, told = plan.times.tolist(), plan.told.tolist()
    x_0_previous, x_0_before, memory = None, None, plan.memory
    for step, (p, q, a, b, c, d, w, e) in enumerate(plan.table(objective).tolist()):
        t = torch.full((len(x),), told[step], device=x.device)
        with phase("net"):
            pred = guidance(net, x, t, y, Step(step, w)).to(x.dtype)
        with phase("solver step"):
            x_0 = p * x + q * pred
            if clamp is not None:
                x_0 = x_0.clamp(-clamp, clamp)
            if known is not None:
                x_0 = known(x_0)
            x = a * x + b * x_0
            if c != 0:
                x = x + c * x_0_previous
            if e != 0:
                x = x + e * x_0_before
            if d != 0:
                x = x + d * (noise(step) if noise else torch.randn_like(x))
            x_0_before = x_0_previous if memory == 2 else None
            x_0_previous = x_0
        yield State(x, x_0, times[step + 1])


def spaced(schedule: Schedule, num_steps: int, spacing: Spacing, steps_offset: int = 0) -> Tensor:
    """Return num_steps + 1 strictly falling times from T (or near it) to 0, [num_steps + 1] int64.

    - `linear`: evenly from T to 1, then 0.
    - `trailing`: T - i T / N.
    - `leading`: 1 + (N - 1 - i) floor(T / N) + `steps_offset`, then 0; the default of diffusers'
      schedulers. The first time lies below T, where samples are not pure noise: use `trailing`
      unless to compare.
    - `quadratic`: dense near the data.
    - `logsnr`: T, then evenly in log SNR down to 1, then 0. One step crosses all log SNR below -10
      (where the linear schedule ends), because x_t is almost pure noise there.
    - `karras`: evenly in sigma^(1 / 7) from T down to 1, then 0 (Karras et al. 2022, Eq. 5), with
      sigma = noise / signal, at most 148.
    - a list: the times themselves, without the 0 at the end; as many as `num_steps`.

    Raises ConfigError unless 1 <= num_steps <= T, for times that do not fall from T at most to 1
    at least, and for an offset of another spacing.
    """
    T = schedule.T
    if steps_offset and spacing != "leading":
        raise ConfigError(
            f"solver.steps_offset: {steps_offset} is for spacing=leading, not for {spacing}"
        )
    if not 1 <= num_steps <= T:
        raise ConfigError(
            f"solver.num_steps must lie in 1..{T} (the schedule's T), not {num_steps}"
        )
    if not isinstance(spacing, str):
        falls = all(s > t for s, t in pairwise([T + 1, *spacing, 0]))
        if len(spacing) != num_steps or not falls:
            raise ConfigError(
                f"solver.spacing: {spacing} must be num_steps={num_steps} times that fall from "
                f"{T} at most to 1 at least"
            )
        return torch.tensor([*spacing, 0])
    u = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    if spacing == "trailing":
        times = T - torch.arange(num_steps, dtype=torch.float64) * T / num_steps
    elif spacing == "leading":
        falling = torch.arange(num_steps - 1, -1, -1, dtype=torch.float64)
        times = (1 + steps_offset + falling * (T // num_steps)).clamp(max=T)
    elif spacing == "linear":
        times = T + u * (1 - T)
    elif spacing == "quadratic":
        times = (T**0.5 + u * (1 - T**0.5)) ** 2
    elif spacing in ("logsnr", "karras"):
        rising = schedule.log_snr[1:].clamp(min=-10).flip(0)  # at T, T - 1, .. 1
        if spacing == "karras":
            rising = -(torch.exp(-rising / 2) ** (1 / 7))
        wanted = rising[0] + u * (rising[-1] - rising[0])
        times = T - torch.searchsorted((rising[1:] + rising[:-1]) / 2, wanted).double()
    else:
        raise ConfigError(f"solver.spacing: {spacing!r} is not one of {', '.join(get_args(Named))}")
    times = torch.cat([times.round().long(), torch.zeros(1, dtype=torch.int64)])
    # rounding may repeat a time: leave room for the later steps, then make the times fall strictly
    index = torch.arange(num_steps + 1)
    times = torch.maximum(times, num_steps - index)
    if spacing != "leading":
        times[0] = T
    return torch.cummin(times + index, 0).values - index


def ddpm(
    schedule: Schedule,
    num_steps: Count | None = None,
    variance: Literal["beta", "posterior"] = "posterior",
    spacing: Spacing = "trailing",
    steps_offset: Offset = 0,
) -> Plan:
    """DDPM sampling (Ho et al. 2020, Eq. 7).

    - `num_steps`: None visits all T times.
    - `variance`: sigma^2 is beta ("beta") or beta tilde ("posterior").
    - `steps_offset`: added to the times of `spacing` leading.
    """
    num_steps = schedule.T if num_steps is None else num_steps
    times = spaced(schedule, num_steps, spacing, steps_offset)
    abar_t, abar_s = schedule.abar[times[:-1]], schedule.abar[times[1:]]
    alpha = abar_t / abar_s
    x = alpha.sqrt() * (1 - abar_s) / (1 - abar_t)
    x_0 = abar_s.sqrt() * (1 - alpha) / (1 - abar_t)
    if variance == "posterior":
        squared = (1 - alpha) * (1 - abar_s) / (1 - abar_t)
    elif variance == "beta":
        squared = (1 - alpha) * (times[1:] > 0)  # the last step returns its mean
    else:
        raise ConfigError(f"solver.variance: {variance!r} is not one of beta, posterior")
    return Plan(schedule, times, x, x_0, 0 * x, squared.sqrt())


def ddim(
    schedule: Schedule,
    num_steps: Count = 50,
    eta: Share = 0.0,
    spacing: Spacing = "trailing",
    steps_offset: Offset = 0,
) -> Plan:
    """DDIM sampling (Song et al. 2021, Eq. 12 and 16).

    eta = 0 is deterministic; eta = 1 has the DDPM posterior variance. `steps_offset` is added to
    the times of `spacing` leading.
    """
    _check_eta(eta)
    times = spaced(schedule, num_steps, spacing, steps_offset)
    abar_t, abar_s = schedule.abar[times[:-1]], schedule.abar[times[1:]]
    std = eta * ((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)).sqrt()
    # sqrt((1 - abar_s - std^2) / (1 - abar_t)), without the difference, which cancels near eta = 1
    kept = (1 - eta**2) * (1 - abar_t) + eta**2 * (abar_t / abar_s) * (1 - abar_s)
    direction = ((1 - abar_s) * kept).sqrt() / (1 - abar_t)
    x_0 = abar_s.sqrt() - direction * abar_t.sqrt()
    return Plan(schedule, times, direction, x_0, 0 * std, std)


def few(
    schedule: Schedule, num_steps: Count = 4, spacing: Literal["trailing"] = "trailing"
) -> Plan:
    """DDIM for a net that has learned shortcuts (`shortcuts`): it is told how far a step goes.

    - `num_steps`: 1, 2, 4, .. up to half of the shortest steps that were learned from.
    - `spacing`: trailing, where every step consists of whole steps of the next number.
    """
    if num_steps & (num_steps - 1):
        raise ConfigError(
            f"solver.num_steps: {num_steps} to a sample are not among the steps that shortcuts "
            "learn; choose from 1, 2, 4, 8, .."
        )
    return replace(ddim(schedule, num_steps, spacing=spacing), shortcuts=True)


def dpmpp_2m(schedule: Schedule, num_steps: Count = 25, spacing: Spacing = "logsnr") -> Plan:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): second-order multistep, deterministic."""
    times = spaced(schedule, num_steps, spacing)
    alpha, sigma, h, ratio = _log_snr_steps(schedule, times)
    gain = -alpha[1:] * torch.expm1(-h)
    half = ratio / 2  # 1 / (2 r): the weight of the difference of the last two estimates
    return Plan(
        schedule,
        times,
        sigma[1:] / sigma[:-1],
        gain * (1 + half),
        -gain * half,
        torch.zeros_like(h),
    )


def dpmpp_2m_sde(
    schedule: Schedule, num_steps: Count = 25, eta: Share = 1.0, spacing: Spacing = "logsnr"
) -> Plan:
    """SDE-DPM-Solver++(2M), midpoint form: second-order multistep, with noise.

    eta = 0 is its deterministic limit.
    """
    _check_eta(eta)
    times = spaced(schedule, num_steps, spacing)
    alpha, sigma, h, ratio = _log_snr_steps(schedule, times)
    gain = -alpha[1:] * torch.expm1(-(1 + eta) * h)
    half = ratio / 2
    noise = sigma[1:] * (-torch.expm1(-2 * eta * h)).sqrt()
    # exp(-eta h) -> 0 where a step starts or ends at an infinite log SNR, unless eta is 0
    x = sigma[1:] / sigma[:-1] * torch.exp(-eta * h).nan_to_num(1.0)
    return Plan(schedule, times, x, gain * (1 + half), -gain * half, noise.nan_to_num(0.0))


def unipc(schedule: Schedule, num_steps: Count = 10, spacing: Spacing = "logsnr") -> Plan:
    """UniPC-2 (Zhao et al. 2023; B(h) = e^h - 1, prediction of data): multistep, deterministic.

    Third order, and second where the first steps, from pure noise, decide. A step predicts as
    dpmpp_2m does. Where the net is evaluated next, its estimate m there also corrects the step that
    led there (their UniC): the corrected state is

        x + gain (u (m - x_0) + v (x_0 - x_0_previous))

    with x, x_0 and x_0_previous of the step that is corrected. A row corrects and predicts at
    once: it goes on from the corrected state, which is never kept, and m is its x_0. So it needs
    three estimates, and one evaluation a step.
    """
    times = spaced(schedule, num_steps, spacing)
    alpha, sigma, h, ratio = _log_snr_steps(schedule, times)
    ends = torch.expm1(-h)
    gain, kept, half = -alpha[1:] * ends, sigma[1:] / sigma[:-1], ratio / 2
    # weights of a quadratic in lambda through three estimates (their rho): m is linear in them
    linear = (-ends / h - 1) / ends
    square = 2 * (linear * ends / -h - 1 / 2) / ends
    bent = ratio * (linear - square) / (1 + ratio)
    u = torch.where(ratio == 0, 0.5, linear - bent)  # a first-order step has the trapezoid
    v = ratio * bent - half
    u, v = (torch.cat([torch.zeros_like(h[:1]), (gain * w)[:-1]]) for w in (u, v))
    return Plan(
        schedule,
        times,
        x=kept,
        x_0=kept * u + gain * (1 + half),
        x_0_previous=kept * (v - u) - gain * half,
        noise=torch.zeros_like(h),
        x_0_before=-kept * v,
    )


def heun(
    schedule: Schedule, num_steps: Count = 10, line: Line = "flow", spacing: Spacing = "logsnr"
) -> Plan:
    """Heun's method (Karras et al. 2022, Algorithm 1): second order, deterministic.

    A step has two rows. The first one goes on as ddim does. The second one evaluates the net where
    that has led, and goes on from the start again, along the mean of the two directions. It needs
    no memory of the start, which follows from x and x_0_previous. The last step is ddim's alone:
    2 N - 1 evaluations.

    `line`: the coordinate that is stepped in, and in which the direction is taken to be constant.
    flow: x_0 + u (eps - x_0), defined at all noise levels; sigma: x_0 + sigma eps, that of EDM, not
    where abar_T = 0.
    """
    times = spaced(schedule, num_steps, spacing)
    abar = schedule.abar[times]
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
    scale = {"flow": alpha + sigma, "sigma": alpha}.get(line)
    if scale is None:
        raise ConfigError(f"solver.line: {line!r} is not one of flow, sigma")
    if line == "sigma" and scale[0] == 0:
        raise ConfigError("solver.line=sigma: the schedule ends in pure noise; use line=flow")
    # y = x / scale = signal x_0 + noise eps, with eps = (x - alpha x_0) / sigma; h: their changes
    signal, noise = alpha / scale, sigma / scale
    h_signal, h_noise = signal.diff(), noise.diff()
    # first rows: y' = y + h_signal x_0 + h_noise eps
    x = scale[1:] * (1 / scale[:-1] + h_noise / sigma[:-1])
    x_0 = scale[1:] * (h_signal - h_noise * alpha[:-1] / sigma[:-1])
    x[-1], x_0[-1] = 0, 1  # the sample is the last estimate, without rounding
    # second rows: half of what x_0 has changed in that sum; the first row has kept its own eps
    change = scale[1:-1] / 2 * (h_signal - h_noise * alpha[1:] / sigma[1:])[:-1]
    one, none = torch.ones_like(change), torch.zeros_like(x)
    return Plan(
        schedule,
        times=torch.cat([times[:1], times[1:-1].repeat_interleave(2), times[-1:]]),
        x=_alternating(x, one),
        x_0=_alternating(x_0, change),
        x_0_previous=_alternating(none, -change),
        noise=torch.zeros(2 * num_steps - 1, dtype=torch.float64),
    )


def _alternating(first: Tensor, second: Tensor) -> Tensor:
    """Return first[0], second[0], first[1], .. second[N - 2], first[N - 1], [2 N - 1]."""
    return torch.cat([torch.stack([first[:-1], second], 1).flatten(), first[-1:]])


def _log_snr_steps(schedule: Schedule, times: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return alpha and sigma [N + 1], h = lambda_s - lambda_t [N], and h / h_previous [N].

    The ratio is 0 in the first step, in the last (h is infinite) and after an infinite h: those
    steps are first order.
    """
    abar = schedule.abar[times]
    h = torch.diff(schedule.log_snr[times] / 2)
    ratio = torch.zeros_like(h)
    ratio[1:] = h[1:] / h[:-1]
    ratio[~torch.isfinite(h)] = 0
    return abar.sqrt(), (1 - abar).sqrt(), h, ratio


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise ConfigError(f"solver.eta must lie in 0..1, not {eta}")
