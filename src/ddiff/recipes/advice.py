"""The rules of recipes: what suits a fingerprint, why, and by which evidence.

A rule is a function of the fingerprint that returns choices. Those of the second kind also know how
many steps the budget has. A new rule is a function, and its name in RULES.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ddiff.config.resolvers import LARGEST, PIXELS, NetFit, fit, nearest_sides
from ddiff.recipes.fingerprint import Fingerprint
from ddiff.system.errors import ConfigError

ENOUGH = 100  # steps: with fewer, a smaller batch and then a cheaper net is looked for
UNFINISHED = 1000  # steps: with fewer, samples may be unfinished
FEW = 1000  # samples: with fewer, a net of these sizes may learn them by heart
LOOK = "the fingerprint"  # evidence: what was seen of the data themselves
SPEED = "measured on this device"


@dataclass(frozen=True)
class Choice:
    """An option of `ddiff.train`, with the reason for its value and the evidence of that."""

    option: str  # net, or net.channels
    value: Any
    because: str
    evidence: str

    @property
    def word(self) -> str:
        """The option as on the command line."""
        value = self.value
        if value is None or isinstance(value, bool):
            text = {None: "null", True: "true", False: "false"}[value]
        else:
            text = str(value).replace(" ", "")
        return f"{self.option}={text}"


def kind(dims: int) -> str:
    """Return the plain experiment for data of so many dimensions."""
    return "pictures" if dims == 2 else "volumes"


def module(facts: Fingerprint) -> Iterator[Choice]:
    if facts.classes:
        yield Choice(
            "module", "conditional_ddpm", f"{facts.classes} classes: it learns each of them", LOOK
        )
    elif facts.told:
        yield Choice(
            "module", "conditional_ddpm", f"it learns what is told: {', '.join(facts.told)}", LOOK
        )
    elif facts.dims == 3 and facts.law == "binary":
        yield Choice("module", "voxel_ddpm", "solids: validation also measures overlap", LOOK)
    else:
        yield Choice("module", "ddpm", "nothing is told of a sample", LOOK)


def objective(facts: Fingerprint) -> Iterator[Choice]:
    if facts.dims == 3:
        yield Choice(
            "objective", "x0", "volumes: the net predicts the data, which patches can say",
            "docs/objectives.md",
        )  # fmt: skip
    else:
        yield Choice(
            "objective", "v", "pictures: between the clean x0 and the broad eps",
            "experiments/digits_objectives",
        )  # fmt: skip


def schedule(facts: Fingerprint) -> Iterator[Choice]:
    factor = min(1.0, PIXELS / facts.pixels)
    if factor == 1:
        yield Choice(
            "schedule", "cosine", f"{facts.pixels} pixels, and it was made for {PIXELS}",
            "docs/schedules.md",
        )  # fmt: skip
        return
    yield Choice(
        "schedule", "shifted", f"{facts.pixels} values outvote the noise that suits {PIXELS}",
        "experiments/exact_spheres",
    )  # fmt: skip
    yield Choice(
        "schedule.snr_factor", round(factor, 6), f"{PIXELS} / {facts.pixels}", "docs/schedules.md"
    )


def timesteps(facts: Fingerprint) -> Iterator[Choice]:
    yield Choice(
        "timesteps", "stratified",
        "unbiased and free; logit_normal, which helps at first, was behind on three sets of three",
        "experiments/recipes",
    )  # fmt: skip


def optimizer(facts: Fingerprint) -> Iterator[Choice]:
    if facts.dims == 3:
        yield Choice(
            "optimizer", "muon",
            "half the steps of AdamW at 64^3; on 16^3, in 145 steps, it lost 3% of IoU",
            "experiments/spheres, experiments/techniques_volumes",
        )  # fmt: skip
    else:
        yield Choice(
            "optimizer", "muon", "FID -32% at equal time on digits", "experiments/techniques"
        )
    yield Choice("optimizer.lr", 3e-3, "the rate of these studies", "experiments/techniques")


def solver(facts: Fingerprint) -> Iterator[Choice]:
    if facts.dims == 3:
        yield Choice(
            "solver", "dpmpp_2m", "40 trailing steps left radii on their law",
            "experiments/exact_spheres",
        )  # fmt: skip
        yield Choice("solver.num_steps", 40, "as there", "experiments/exact_spheres")
        yield Choice(
            "solver.spacing", "trailing", "where a thing is gets decided in the noisiest steps",
            "experiments/exact_spheres",
        )  # fmt: skip
    else:
        yield Choice(
            "solver", "dpmpp_2m_sde", "ten steps: the lowest FID of six solvers",
            "experiments/solvers",
        )  # fmt: skip
        yield Choice("solver.num_steps", 25, "more than those ten, to be sure", "docs/solvers.md")


def guidance(facts: Fingerprint) -> Iterator[Choice]:
    if facts.classes or facts.told:
        yield Choice(
            "guidance", "none", "guidance costs variety; 0.25 when sampling makes labels surer",
            "experiments/guidance",
        )  # fmt: skip
    else:
        yield Choice("guidance", "none", "nothing is told", LOOK)


RULES = (module, objective, schedule, timesteps, optimizer, solver, guidance)


def parts(facts: Fingerprint) -> list[Choice]:
    """Return every choice that the fingerprint alone decides."""
    return [choice for rule in RULES for choice in rule(facts)]


def nets(facts: Fingerprint) -> list[list[Choice]]:
    """Return nets for these data, from the one that suits the size to the cheapest."""
    sides = facts.shape[1:]
    found = fit(sides)
    if found is None:
        would = " or ".join("x".join(map(str, near)) for near in nearest_sides(sides))
        raise ConfigError(
            f"data: {'x'.join(map(str, sides))} has too few factors of 2 for a U-Net; "
            f"data.size= of {would or 'other sides'} would do"
        )
    nets = [_net(facts, found, f"{'x'.join(map(str, sides))}", "docs/data.md")]
    widths = [*found.channels[:-2], found.channels[-1]]  # a level less
    coarse = NetFit(2 * found.patch_size, widths, found.num_blocks)
    fits = all(side % (coarse.patch_size * 2 ** len(coarse.channels)) == 0 for side in sides)
    fits = fits and math.prod(sides) // found.patch_size**facts.dims > LARGEST
    if facts.dims == 3 and fits:
        nets.append(_net(facts, coarse, "the finer net has too few steps in this budget", SPEED))
    last = coarse if facts.dims == 3 and fits else found
    half = NetFit(last.patch_size, [width // 2 for width in last.channels], last.num_blocks)
    nets.append(_net(facts, half, "wider nets have too few steps in this budget", SPEED))
    return nets


def _net(facts: Fingerprint, found: NetFit, because: str, evidence: str) -> list[Choice]:
    choices = [
        Choice("net", "unet", "convolutions and attention, in 2D and 3D", "docs/nets.md"),
        Choice("net.channels", found.channels, because, evidence),
        Choice("net.num_blocks", found.num_blocks, f"{facts.dims}D", "docs/data.md"),
        Choice("net.groups", 8, "divides every width", "docs/nets.md"),
    ]
    if found.channels[-1] % 32:
        choices.append(
            Choice("net.head_dim", 16, "heads of attention divide the last width", "docs/nets.md")
        )
    if found.patch_size > 1:
        choices += [
            Choice("net.patch_size", found.patch_size,
                   f"space to depth: {found.patch_size**facts.dims} times fewer positions",
                   "experiments/training_step"),
            Choice("net.input_skip", True, "patches outgrow the width of the net", "docs/nets.md"),
        ]  # fmt: skip
    return choices


def batches(number: int, dims: int, gpu: bool) -> list[int]:
    """Return sizes of a batch to try for so many training samples, the largest first."""
    largest = (128 if gpu else 64) if dims == 2 else (32 if gpu else 16)
    sizes = [largest // 2**k for k in range(3)]
    return [size for size in sizes if size <= number] or [number]


def lengths(steps: int, batch: int) -> list[Choice]:
    """Return the choices that follow from the number of steps."""
    warmup, average = max(1, min(100, steps // 10)), max(10, steps // 10)
    return [
        Choice("budget.max_steps", steps, "what the budget has time for", SPEED),
        Choice("budget.batch_size", batch, f"the largest tried that leaves {ENOUGH} steps, or the "
               "smallest", SPEED),
        Choice("budget.val_every", max(1, steps // 10), "ten validations", "docs/studies.md"),
        Choice("budget.sample_every", max(1, steps // 2), "a picture halfway", "docs/data.md"),
        Choice("lr_schedule", "warmup_cosine", "ends at 2% of the rate at the last step",
               "experiments/techniques"),
        Choice("lr_schedule.warmup_steps", warmup, "a tenth of the steps, at most 100",
               "docs/studies.md"),
        Choice("module.ema_decay", round(1 - 1 / average, 6),
               f"averages the last tenth: {average} steps", "docs/averages.md"),
    ]  # fmt: skip


def expectations(facts: Fingerprint, steps: int, batch: int) -> list[str]:
    """Return what to expect of a training of so many steps, in sentences."""
    found = []
    if facts.distinct < FEW:
        found.append(
            f"{facts.distinct} cases: expect copies; metrics=[memorisation] of ddiff.evaluate "
            "will tell"
        )
    if facts.copies:
        found.append(
            f"{facts.copies} of {facts.looked_at} samples are copies of others: these are drawn "
            "more often, and copies in the validation set flatter it"
        )
    if facts.near_copies:
        found.append(
            f"{facts.near_copies} of {facts.looked_at} samples are nearly copies: a held-out one "
            "may not be new"
        )
    if steps < UNFINISHED:
        found.append(f"{steps} steps are few: expect unfinished samples; a longer budget= helps")
    if facts.classes and facts.number / facts.classes < FEW / 10:
        found.append(f"about {facts.number // facts.classes} samples a class: few for each")
    if facts.agreeing > 0.9:
        found.append(
            f"{facts.agreeing:.0%} of the values agree in nearly all samples: the validation loss "
            "says little; look at what varies"
        )
    return found or [f"{steps * batch / facts.number:.1f} looks at each sample; nothing unusual"]
