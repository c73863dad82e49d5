"""Radii of 64^3 spheres from a perfect net: how well could they follow their law?

    python experiments/exact_spheres/measure.py        # two minutes on one core

A sphere about the middle is known by its radius, so E[x_0 | x_t] has a closed form: a mean over
radii, weighted by the likelihood of x_t, which needs only the mean of x_t over each shell of equal
distance. Every plan of ddiff.diffusion runs on these shells with the exact denoiser in the net's
place. Any remaining difference from the law is then due to the solver.
"""

import json
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kstwo

from ddiff.diffusion.schedules import Schedule, cosine, shifted
from ddiff.diffusion.solvers import Plan, ddim, ddpm, dpmpp_2m, dpmpp_2m_sde
from ddiff.metrics.spheres import drawn, uniform_test

HERE = Path(__file__).parent
SIZE, LOW, HIGH, SAMPLES = 64, 8.0, 16.0, 4000
SOLVERS = {"ddpm": ddpm, "ddim": ddim, "dpmpp_2m": dpmpp_2m, "dpmpp_2m_sde": dpmpp_2m_sde}
STEPS = (20, 40, 100)
FACTORS = {"1/16": 1 / 16, "1/64": 1 / 64, "1/256": 1 / 256}


class Shells:
    """Voxels by their distance from the middle, as far as spheres reach, and the distinct spheres
    among the radii."""

    def __init__(self) -> None:
        axis = torch.arange(SIZE, dtype=torch.float64) - (SIZE - 1) / 2
        d2 = (axis**2)[:, None, None] + (axis**2)[:, None] + axis**2
        squared, counts = torch.unique(d2[d2 < (HIGH + 1) ** 2], return_counts=True)
        self.radius = squared.sqrt()
        self.count = counts.double()
        inner = self.radius[(self.radius > LOW) & (self.radius < HIGH)]
        self.starts = torch.cat(
            [torch.tensor([LOW]), inner]
        )  # radii in [start, end) are one sphere
        self.ends = torch.cat([inner, torch.tensor([HIGH])])
        self.prior = (self.ends - self.starts) / (HIGH - LOW)
        inside = self.radius <= ((self.starts + self.ends) / 2)[:, None]
        self.x_0 = torch.where(inside, 1.0, -1.0).double()  # [spheres, shells]

    def denoise(self, x: torch.Tensor, abar: float) -> torch.Tensor:
        """E[x_0 | x_t] from means over shells [N, shells]; |x_0| is the same for all spheres."""
        likelihood = (x * self.count) @ self.x_0.T * (abar**0.5 / (1 - abar))
        return torch.softmax(likelihood + self.prior.log(), 1) @ self.x_0

    def sample(self, schedule: Schedule, plan: Plan) -> np.ndarray:
        """Sample by the plan; returns the interval of each sphere's radius, [N, 2]."""
        g = torch.Generator().manual_seed(0)

        def noise() -> torch.Tensor:
            z = torch.randn(SAMPLES, len(self.radius), generator=g, dtype=torch.float64)
            return z / self.count.sqrt()

        x = noise()
        previous = torch.zeros_like(x)
        for i, t in enumerate(plan.times[:-1].tolist()):
            x_0 = self.denoise(x, float(schedule.abar[t]))
            a, b, c, d = (float(k[i]) for k in (plan.x, plan.x_0, plan.x_0_previous, plan.noise))
            x = a * x + b * x_0 + c * previous + d * noise()
            previous = x_0
        volume = ((x > 0) * self.count).sum(1, keepdim=True)
        volumes = ((self.x_0 > 0) * self.count).sum(1)
        which = (volume - volumes).abs().argmin(1)
        return torch.stack([self.starts[which], self.ends[which]], 1).numpy()


def main() -> None:
    shells = Shells()
    rows = []
    for factor, value in FACTORS.items():
        schedule = shifted(cosine(), value)
        for name, solver in SOLVERS.items():
            for spacing in ("trailing", "logsnr"):
                for steps in STEPS:
                    plan = solver(schedule, num_steps=steps, spacing=spacing)
                    radius = drawn(shells.sample(schedule, plan), LOW, HIGH, seed=0)
                    d, p = uniform_test(radius, LOW, HIGH)
                    low, high = np.quantile(radius, [0.05, 0.95])
                    rows.append({"snr": factor, "solver": name, "spacing": spacing, "steps": steps,
                                 "d": d, "p": p, "q05": low, "q95": high})  # fmt: skip
                    print(rows[-1], flush=True)
    (HERE / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    write(rows)


def write(rows: list[dict]) -> None:
    limits = {n: float(kstwo(n).ppf(0.99)) for n in (1000, SAMPLES)}
    verdict = HERE / "verdict.md"
    lines = [
        "# Exact spheres",
        "",
        "*How well could the radii of 64^3 spheres follow their law, if the net were perfect?*",
        "",
        f"Written by `python experiments/exact_spheres/measure.py`: the exact denoiser, {SAMPLES} "
        "samples a row. D is the largest difference of the distribution functions of the radii "
        f"and of the uniform law; of true samples it exceeds {limits[SAMPLES]:.3f} once in a "
        f"hundred times, and {limits[1000]:.3f} where 1,000 are tested.",
        "",
        verdict.read_text() if verdict.exists() else "",
    ]
    for spacing in ("trailing", "logsnr"):
        cells = {
            (r["snr"], r["solver"], r["steps"]): r["d"] for r in rows if r["spacing"] == spacing
        }
        heads = [f"{solver} {steps}" for solver in SOLVERS for steps in STEPS]
        lines += ["", f"## D with `solver.spacing={spacing}`", "",
                  f"| SNR of cosine times | {' | '.join(heads)} |",
                  "|---" * (len(heads) + 1) + "|"]  # fmt: skip
        for factor in FACTORS:
            values = [cells[factor, solver, steps] for solver in SOLVERS for steps in STEPS]
            lines.append(f"| {factor} | {' | '.join(f'{v:.3f}' for v in values)} |")
    (HERE / "README.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
