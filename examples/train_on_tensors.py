"""Train on tensors of your own, in plain torch: no config, no trainer.

    python examples/train_on_tensors.py --steps 600        # two minutes on two cores

The data are 1,797 handwritten digits of 8x8 pixels, which scikit-learn brings.
"""

import argparse

import torch
from sklearn.datasets import load_digits

from ddiff import loss, nets, objectives, schedules, solve, solvers, timesteps
from ddiff.pages.view import picture, save_png

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=600)
parser.add_argument("--out", default="digits.png")
given = parser.parse_args()

# Samples [N, C, H, W] between -1 and 1, and a label for each.
pixels, classes = load_digits(return_X_y=True)
images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
labels = torch.tensor(classes)

torch.manual_seed(0)
net = nets.UNet(shape=(1, 8, 8), num_classes=10, channels=[32, 64], groups=8)
schedule, objective = schedules.cosine(), objectives.V()
law = timesteps.Stratified(schedule)
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
generator = torch.Generator().manual_seed(0)

for step in range(1, given.steps + 1):
    batch = torch.randint(len(images), (64,), generator=generator)
    losses = loss(net, images[batch], labels[batch], schedule, objective, law, generator)
    optimizer.zero_grad()
    losses.total.backward()
    optimizer.step()
    if step % 100 == 0 or step == given.steps:
        print(f"step {step}: loss {losses.total.item():.4f}")

# Ten samples of each digit, in 20 evaluations of the net.
plan = solvers.dpmpp_2m(schedule, num_steps=20)
wanted = torch.arange(10).repeat_interleave(10)
x = torch.randn(100, 1, 8, 8, generator=generator)
with torch.no_grad():
    *_, last = solve(net.eval(), plan, objective, x, clamp=1.0, y=wanted)
save_png(picture(last.x.numpy(), columns=10), given.out)
print(f"a row for each digit: {given.out}")
