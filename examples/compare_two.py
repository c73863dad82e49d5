"""Compare two techniques on the same budget: is stratified drawing of timesteps worth it?

    python examples/compare_two.py --steps 300 --seeds 3       # five minutes on two cores

The runs of a pair share everything but the technique: weights at the start, batches, noise of the
validation. The difference is therefore taken within a pair, and its standard error tells whether
the seeds agree.
"""

import argparse
from statistics import mean, stdev

import torch
from sklearn.datasets import load_digits

from ddiff import loss, nets, objectives, schedules, timesteps
from ddiff.diffusion.timesteps import TimestepSampler

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--seeds", type=int, default=3)
given = parser.parse_args()

pixels, _ = load_digits(return_X_y=True)
images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
held_out, training = images[:200], images[200:]
schedule, objective = schedules.cosine(), objectives.V()


def trained(law: TimestepSampler, seed: int) -> float:
    """The validation loss of a training."""
    torch.manual_seed(seed)
    net = nets.UNet(shape=(1, 8, 8), num_classes=None, channels=[16, 32], groups=8)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    batches, noise = (torch.Generator().manual_seed(seed) for _ in range(2))
    for _ in range(given.steps):
        batch = torch.randint(len(training), (32,), generator=batches)
        losses = loss(net, training[batch], None, schedule, objective, law, noise)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    same = torch.Generator().manual_seed(0)
    with torch.no_grad():
        whole = held_out.repeat(4, 1, 1, 1)
        fixed = timesteps.Stratified(schedule)
        return loss(net.eval(), whole, None, schedule, objective, fixed, same).total.item()


differences = []
for seed in range(given.seeds):
    uniform = trained(timesteps.Uniform(schedule), seed)
    stratified = trained(timesteps.Stratified(schedule), seed)
    differences.append(stratified - uniform)
    print(f"seed {seed}: uniform {uniform:.4f}, stratified {stratified:.4f}")
error = stdev(differences) / len(differences) ** 0.5
print(f"stratified - uniform: {mean(differences):+.4f}, standard error {error:.4f}")
