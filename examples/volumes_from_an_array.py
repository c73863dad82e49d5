"""Volumes from an array: train on them, and write a sample as a mesh.

    python examples/volumes_from_an_array.py --steps 300       # two minutes on two cores

The array holds boxes with round holes, 16^3 voxels, 1 inside and 0 outside. Put your own in its
place: any [N, D, H, W] whose sides divide by 4.
"""

import argparse

import numpy as np
import torch

from ddiff import loss, nets, objectives, schedules, solve, solvers, timesteps
from ddiff.pages.view import isosurface, picture, save_png, write_ply

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--out", default="volumes")
given = parser.parse_args()

rng = np.random.default_rng(0)
z, y, x = np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij")
half, hole = rng.uniform(4, 7, (2000, 3)), rng.uniform(1.5, 3, 2000)
box = np.stack([(abs(z) < a) & (abs(y) < b) & (abs(x) < c) for a, b, c in half])
array = box & (y**2 + x**2 > hole[:, None, None, None] ** 2)

volumes = torch.tensor(array, dtype=torch.float32)[:, None] * 2 - 1  # [N, 1, D, H, W] of -1, 1
torch.manual_seed(0)
net = nets.UNet(shape=(1, 16, 16, 16), num_classes=None, channels=[16, 32], groups=8, patch_size=2)
# Neighbouring voxels agree, so a volume needs more noise than a picture before it is forgotten.
schedule, objective = schedules.shifted(schedules.cosine(), snr_factor=1 / 64), objectives.X0()
law = timesteps.Uniform(schedule)
optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
generator = torch.Generator().manual_seed(0)

for step in range(1, given.steps + 1):
    batch = torch.randint(len(volumes), (16,), generator=generator)
    losses = loss(net, volumes[batch], None, schedule, objective, law, generator)
    optimizer.zero_grad()
    losses.total.backward()
    optimizer.step()
    if step % 50 == 0 or step == given.steps:
        print(f"step {step}: loss {losses.total.item():.4f}")

plan = solvers.ddim(schedule, num_steps=25)
noise = torch.randn(8, 1, 16, 16, 16, generator=generator)
with torch.no_grad():
    *_, last = solve(net.eval(), plan, objective, noise, clamp=1.0)
samples = last.x.numpy()
np.save(f"{given.out}.npy", samples)
save_png(picture(samples, columns=4), f"{given.out}.png")
mesh = write_ply(f"{given.out}.ply", *isosurface(samples[0, 0]))
print(f"eight samples: {given.out}.npy, {given.out}.png, and the first as {mesh}")
