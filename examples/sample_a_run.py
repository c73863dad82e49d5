"""Samples of a run as numpy arrays, with another solver and with guidance.

python -m ddiff.train experiment=digits_cfg run_dir=runs/digits      # five minutes
python examples/sample_a_run.py runs/digits
"""

import argparse

import numpy as np

import ddiff
from ddiff.pages.view import picture, save_png

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", help="a run, a checkpoint or an exported file")
parser.add_argument("--out", default="samples.png")
given = parser.parse_args()

model = ddiff.load(given.run)
print(model)
print(
    f"trained with {model.config['schedule']['_target_']}, {model.config['timesteps']['_target_']}"
)

# Without options: the run's own solver and guidance, an equal number of each class.
plain = model.sample(num_samples=20, seed=0)

# Half the evaluations of the net, and class 3 alone, guided towards it.
threes = model.sample(num_samples=20, y=3, solver="dpmpp_2m", num_steps=12, guidance=1.0)

print(f"arrays of {plain.shape}, values from {plain.min():.2f} to {plain.max():.2f}")
save_png(picture(np.concatenate([plain, threes]), columns=10), given.out)
print(f"two rows of each: {given.out}")
