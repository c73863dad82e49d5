"""Measures what jumps buy when samples are completed: the lower halves of held-out digits.

    python -m ddiff.train experiment=digits_cfg budget.batch_size=64 run_dir=outputs/digits
    python experiments/inpainting/measure.py outputs/digits      # minutes on one core

Writes results.json, digits.png and README.md beside this file. `ranks` and `law` on Gaussians,
where the posterior is known, are tests: tests/diffusion/test_known.py.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.svm import SVC
from torch import Tensor

import ddiff
from ddiff.data import Digits
from ddiff.data.source import Source
from ddiff.diffusion import solvers
from ddiff.pages.view import picture, save_png
from ddiff.system.environment import environment

HERE = Path(__file__).parent
JUMPS = (0, 3, 10, 20)
STEPS = 50


def whole(source: Source) -> tuple[Tensor, np.ndarray]:
    """All samples of a data set, and their labels."""
    x, y = source.batch(torch.arange(len(source)))
    assert y is not None
    return x, y.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--num", type=int, default=100)
    options = parser.parse_args()
    data = Digits(batch_size=64, seed=0)
    data.setup("fit")
    (seen, seen_y), (held, held_y) = whole(data.train), whole(data.val)
    reader = SVC(gamma="scale").fit(seen.flatten(1).numpy(), seen_y)
    halves = SVC(gamma="scale").fit(seen[:, :, :4].flatten(1).numpy(), seen_y)
    held, held_y = held[: options.num], held_y[: options.num]
    anew = np.zeros((8, 8), dtype=np.uint8)
    anew[4:] = 1

    model = ddiff.load(options.run)
    plan = solvers.ddpm(model.schedule, STEPS, variance="beta")
    hidden = torch.where(torch.from_numpy(anew) > 0, 0.0, held).numpy()  # grey
    rows, shown = [], [held[:12].numpy(), hidden[:12]]
    for jumps in JUMPS:
        began = time.perf_counter()
        made = model.sample(
            len(held), "none", solver=plan, guidance=0, from_image=hidden, inpaint=anew,
            jumps=jumps, batch_size=50,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        assert np.array_equal(made[:, :, :4], held[:, :, :4].numpy())
        rows.append(
            {
                "jumps": jumps,
                "evaluations": STEPS + (STEPS - 1) * jumps,
                "read_as_the_whole": float(
                    (reader.predict(made.reshape(len(made), -1)) == held_y).mean()
                ),
                "distance": float(np.sqrt(np.square(made - held.numpy())[:, :, 4:].mean())),
                "seconds_a_sample": seconds / len(held),
            }
        )
        shown.append(made[:12])
        print(rows[-1], flush=True)
    save_png(picture(np.concatenate(shown), 12), HERE / "digits.png")
    results = {
        "step": model.step,
        "num": len(held),
        "whole": float((reader.predict(held.flatten(1).numpy()) == held_y).mean()),
        "upper_halves": float((halves.predict(held[:, :, :4].flatten(1).numpy()) == held_y).mean()),
        "rows": rows,
        "environment": environment(torch.device("cpu"), "float32"),
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "README.md").write_text(text(results))


def text(results: dict) -> str:
    """The README of these results."""
    lines = [
        "# Inpainting",
        "",
        "```",
        "python -m ddiff.train experiment=digits_cfg budget.batch_size=64 run_dir=outputs/digits",
        "python experiments/inpainting/measure.py outputs/digits",
        "```",
        "",
        f"The lower halves of {results['num']} held-out digits are drawn anew by a net of "
        f"{results['step']:,} steps, without",
        f"labels: {STEPS} steps of `solver=ddpm solver.variance=beta`. A classifier reads all of "
        "the digit;",
        "shares are certain to about 10 points.",
        "",
        "| jumps | evaluations | read as the true digit | RMS distance from the true half |",
        "|---|---|---|---|",
    ]
    for row in results["rows"]:
        lines.append(
            f"| {row['jumps']} | {row['evaluations']} | {row['read_as_the_whole']:.0%} | "
            f"{row['distance']:.2f} |"
        )
    lines += [
        "",
        f"The same classifier reads {results['whole']:.0%} of the true digits right; one that sees "
        "upper halves only,",
        f"{results['upper_halves']:.0%}. The rows of the picture: digits, what is known of them, "
        f"and {', '.join(map(str, JUMPS))} jumps.",
        "",
        "![digits](digits.png)",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
