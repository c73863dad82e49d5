"""A solver of your own is a table: one row for each evaluation of the net.

    python examples/own_solver.py runs/digits

The loop that runs every plan is

    x_0  = p x + q net(x, t)                         p, q: from the objective
    x'   = a x + b x_0 + c x_0_previous + d noise    a, b, c, d: from the solver

so a solver gives the times and a, b, c, d. This one is DDIM whose noise falls to nothing half way:
random at first, where a sample is decided, and deterministic at the end, where it is drawn.
"""

import argparse

import torch

import ddiff
from ddiff.diffusion import Plan, Schedule, spaced
from ddiff.pages.view import picture, save_png


def early_noise(schedule: Schedule, num_steps: int = 20) -> Plan:
    times = spaced(schedule, num_steps, "trailing")  # T = times[0] > ... > times[-1] = 0
    abar_t, abar_s = schedule.abar[times[:-1]], schedule.abar[times[1:]]  # before, after a step
    eta = (times[:-1] > schedule.T / 2).double()
    noise = eta * ((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)).sqrt()
    a = ((1 - abar_s - noise**2) / (1 - abar_t)).clamp(min=0).sqrt()
    b = abar_s.sqrt() - a * abar_t.sqrt()
    return Plan(schedule, times, x=a, x_0=b, x_0_previous=torch.zeros_like(a), noise=noise)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run")
parser.add_argument("--out", default="own_solver.png")
given = parser.parse_args()

model = ddiff.load(given.run)
samples = model.sample(num_samples=40, solver=early_noise(model.schedule))
save_png(picture(samples, columns=10), given.out)
print(f"{len(samples)} samples of a solver of our own: {given.out}")
