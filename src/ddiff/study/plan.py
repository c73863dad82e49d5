"""The plan of a study: which trainings it needs, and which ways of drawing samples.

It is made of the study's options and needs no torch. A variant is a set of options of ddiff.train.
Those that only change how samples are drawn (`solver=`, `guidance=`, `weights=`, `plan.` for those
of ddiff.plan) do not change a training, so variants that differ in nothing else share one.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ddiff.config.options import MadeFrom, Sample, Study, hints_of, typed
from ddiff.config.sweeps import name_of
from ddiff.config.trees import resolved
from ddiff.config.validation import given_options, validate
from ddiff.recipes.choosing import recipe_words
from ddiff.study.figures import Better, better_of, check_figures, metrics_for
from ddiff.system.errors import ConfigError

NOT_OF_TRAIN = ("weights", "y", *hints_of(MadeFrom))  # options of drawing alone
DRAWING = ("solver", "guidance", "plan", *NOT_OF_TRAIN)  # what a training does not depend on
OWN = {  # options that a study decides for its runs: what to say instead
    "seed": "seeds=",
    "run_dir": "out=",
    "runs": "out=",
    "ckpt_path": "nothing: a study continues its runs by itself",
    "budget.val_every": "nothing: a study validates ten times a run",
    "budget.pause_at": "race=",
}
LOSS_OF = ("schedule", "objective", "data")
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
VALIDATIONS = 10  # in a run, at equal distances


@dataclass(frozen=True)
class Variant:
    """One of what is compared: its training, and the options that its samples are drawn with."""

    name: str
    said: tuple[str, ...]  # what makes it this variant
    training: str
    drawing: tuple[str, ...]


@dataclass(frozen=True)
class Training:
    """Options of ddiff.train, without the seed and the number of steps."""

    name: str  # of the folder of its runs
    words: tuple[str, ...]
    batch: int  # samples of a step
    choices: Mapping[str, str]  # of every group
    loss: str  # what the validation loss depends on: two that differ here are not one quantity


@dataclass(frozen=True)
class Race:
    """Rungs of a race, parts of the budget, at each of which `share` of the variants goes on."""

    rungs: tuple[float, ...]
    share: float
    keep: tuple[str, ...]

    @classmethod
    def of(cls, given: Any, names: Sequence[str]) -> "Race | None":
        if given is None:
            return None
        known = {"rungs", "share", "keep"}
        if not isinstance(given, Mapping) or not known >= given.keys() >= {"rungs", "share"}:
            raise ConfigError("race: needs rungs and share, as {rungs: [0.3], share: 0.1}")
        rungs, keep = list(given["rungs"]), list(given.get("keep") or [])
        if not rungs or not all(_is_part(r) for r in [*rungs, given["share"]]):
            raise ConfigError("race: rungs and share are parts between 0 and 1")
        if sorted(set(rungs)) != rungs:
            raise ConfigError(f"race: rungs={rungs} do not rise")
        if unknown := [name for name in keep if name not in names]:
            raise ConfigError(f"race: keep={unknown[0]!r} is none of {', '.join(names)}")
        return cls(tuple(rungs), float(given["share"]), tuple(keep))


@dataclass(frozen=True)
class Plan:
    """Everything about a study that its options say, before anything is measured."""

    name: str
    variants: tuple[Variant, ...]
    trainings: tuple[Training, ...]
    seeds: tuple[int, ...]
    equal: str
    budget: float  # seconds, steps, samples or evaluations
    measure: tuple[str, ...]  # `decide` is one of them
    decide: str
    better: Better  # of `decide`
    confidence: float
    num_samples: int
    race: Race | None
    own: str | None = None  # the folder of the user's own configs

    @property
    def flags(self) -> list[str]:
        """Words by which commands find configs of the user's own."""
        return ["--config-dir", self.own] if self.own else []

    @property
    def search(self) -> list[str]:
        """Return the same as an option, for what composes a config without a command."""
        return [f"hydra.searchpath=[file://{self.own}]"] if self.own else []

    def variants_of(self, training: str) -> list[Variant]:
        return [variant for variant in self.variants if variant.training == training]


def plan_of(
    options: Study, name: str | None, more: Sequence[str] = (), own: Path | None = None
) -> Plan:
    """The plan. name: the choice of `study=`. more: options of ddiff.train on the command line.
    own: the folder of the user's own configs.

    Raises ConfigError for what can be seen to be wrong without torch.
    """
    vary = (
        OmegaConf.to_container(options.vary) if OmegaConf.is_config(options.vary) else options.vary
    )
    variants = variants_of(vary)
    base = base_of(words_of(options.base, "base"), more)
    budget = amount(options.budget, options.equal)
    measure = tuple(dict.fromkeys([options.decide, *options.measure]))
    check_figures(measure)
    trainings: dict[tuple[str, ...], Training] = {}
    found = []
    for label, words in variants.items():
        every = merged(base, words)
        refuse_own(every, options.equal, label)
        drawing = tuple(word for word in every if name_of(word).split(".")[0] in DRAWING)
        training = tuple(word for word in every if word not in drawing)
        if training not in trainings:
            trainings[training] = training_of(label, training)
        composed(label, of_train(every))  # with those of drawing, so that mistakes are found
        fit_options(label, every)
        drawn_by(label, every)
        check_weights(label, every)
        check_pairs(label, every, measure)
        found.append(Variant(label, tuple(words), trainings[training].name, drawing))
    if len(found) > 1 and len(trainings) == 1 and "/" in options.decide:
        raise ConfigError(
            f"decide: {options.decide} is of the training, which all variants share; "
            "decide by a figure of samples, such as decide=fid"
        )
    first = next(iter(trainings.values()))
    given = (
        OmegaConf.to_container(options.race) if OmegaConf.is_config(options.race) else options.race
    )
    seeds = range(options.seeds) if isinstance(options.seeds, int) else options.seeds
    return Plan(
        name=name or slug("_".join([first.choices.get("experiment") or "study", *variants]))[:80],
        variants=tuple(found),
        trainings=tuple(trainings.values()),
        seeds=tuple(dict.fromkeys(seeds)),
        equal=options.equal,
        budget=budget,
        measure=measure,
        decide=options.decide,
        better=better_of(options.decide, options.better),
        confidence=options.confidence,
        num_samples=options.num_samples,
        race=Race.of(given, list(variants)),
        own=str(own.absolute()) if own else None,
    )


def variants_of(vary: Any) -> dict[str, list[str]]:
    """{name: options} of what `vary` says: by name, or every combination of lists of values."""
    if isinstance(vary, str):
        try:
            vary = yaml.safe_load(vary)
        except yaml.YAMLError as error:
            why = str(getattr(error, "problem", None) or error).splitlines()[0]
            hint = "; options with brackets need quotes: {few: 'net.channels=[8,16]'}"
            raise ConfigError(f"vary: cannot read {vary!r}: {why}{hint}") from None
    if not isinstance(vary, Mapping) or not vary:
        raise ConfigError("vary: needs {name: options of ddiff.train, ...} or {option: [values]}")
    lists = [isinstance(value, list) for value in vary.values()]
    if all(lists):
        rows = product(*([(name, value) for value in values] for name, values in vary.items()))
        pairs = [[f"{name}={value}" for name, value in row] for row in rows]
        found = {" ".join(word.partition("=")[2] for word in row): row for row in pairs}
    elif any(lists):
        raise ConfigError("vary: either every entry is a list of values, or none is")
    else:
        found = {str(name): words_of(value, f"vary.{name}") for name, value in vary.items()}
    if len({slug(name) for name in found}) < len(found) or not all(map(slug, found)):
        raise ConfigError(f"vary: the names {', '.join(found)} are not different as folders")
    return found


def words_of(value: Any, where: str) -> list[str]:
    """The options in a text as on a command line, or in a list of such texts."""
    if value is None or value == {}:
        return []
    texts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        words = [word for text in texts for word in shlex.split(str(text))]
    except ValueError as error:
        raise ConfigError(f"{where}: cannot read {value!r}: {error}") from None
    for word in words:
        if not re.match(r"[+~]{0,2}[\w/@.]+=", word):
            raise ConfigError(f"{where}: {word!r} is not an option; options are written key=value")
    return words


def base_of(base: Sequence[str], more: Sequence[str]) -> list[str]:
    """The options of all variants. Data of the user's own bring the recipe that suits them, in
    place of the base's."""
    if any(name_of(word) == "data" for word in more):
        base = [word for word in base if name_of(word) not in ("experiment", "module")]
        if not any(name_of(word) == "experiment" for word in more):
            base = [*recipe_words(list(more)), *base]
    return merged(base, more)


def merged(*parts: Iterable[str]) -> list[str]:
    """All options, a later one in place of an earlier one of the same name."""
    found: dict[str, str] = {}
    for word in (word for words in parts for word in words):
        found.pop(name_of(word), None)
        found[name_of(word)] = word
    return list(found.values())


def refuse_own(words: Iterable[str], equal: str, label: str) -> None:
    """Raise for options that the study itself decides."""
    own = OWN if equal == "evaluations" else {**OWN, "budget.max_steps": "budget="}
    for word in words:
        if (name := name_of(word)) in own or name.startswith("hydra"):
            raise ConfigError(
                f"{label}: {name} is the study's to say: {own.get(name, 'leave it out')}"
            )


def training_of(label: str, words: tuple[str, ...]) -> Training:
    cfg, choices = composed(label, words)
    devices = cfg.trainer.get("devices", 1)
    ranks = devices if isinstance(devices, int) and devices > 0 else 1
    batch = cfg.budget.batch_size * cfg.trainer.get("accumulate_grad_batches", 1) * ranks
    loss: dict[str, Any] = {n: OmegaConf.to_container(cfg[n], resolve=False) for n in LOSS_OF}
    loss["objective"].pop("weighting", None)  # of the training loss alone
    return Training(slug(label), words, batch, choices, json.dumps(loss, sort_keys=True))


def composed(label: str, words: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """The config of a variant, and the choice of every group. A mistake names the variant."""
    try:
        return given_options("train", words)
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from None


def less(words: Iterable[str], *groups: str) -> list[str]:
    """Return the words without those of these groups."""
    return [word for word in words if name_of(word).split(".")[0] not in groups]


def of_train(words: Iterable[str]) -> list[str]:
    """The words that are options of ddiff.train: the others are of drawing alone."""
    return less(words, "plan", *NOT_OF_TRAIN)


def drawn_by(label: str, words: Iterable[str]) -> Sample:
    """The options that a variant's samples are drawn with, but for its groups."""
    try:
        return _drawn(tuple(word for word in words if name_of(word) in NOT_OF_TRAIN))
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from None


@cache
def _drawn(words: tuple[str, ...]) -> Sample:
    groups = ["solver=ddim", "guidance=none", "precision=fp32"]
    cfg = resolved(given_options("sample", ["run=.", *groups, *words])[0])
    validate(cfg, "sample", stages=(False,))
    return typed(Sample, cfg)


def of_plan(words: Iterable[str]) -> list[str]:
    """Return the words that say how a plan is fitted, as options of ddiff.plan."""
    return [word.removeprefix("plan.") for word in words if word.startswith("plan.")]


def fit_of(words: Sequence[str]) -> list[str]:
    """Return what ddiff.plan is told by a variant that draws by a plan, fitted to each of its nets.

    It is empty for the others.
    """
    own = of_plan(words)
    shared = [word for word in words if name_of(word).split(".")[0] in ("guidance", "weights")]
    return own and [*shared, *own]


def fit_options(label: str, words: Sequence[str]) -> DictConfig | None:
    """The options of the fit, less those of the run; None where no plan is fitted."""
    if "plan" in map(name_of, words):
        raise ConfigError(f"{label}: a plan to fit is asked for by an option, as plan.num_steps=5")
    own = of_plan(words)
    try:
        return given_options("plan", ["run=.", "guidance=none", *own])[0] if own else None
    except ConfigError as error:
        raise ConfigError(f"{label}: plan.{error}") from None


def check_weights(label: str, words: Sequence[str]) -> None:
    """Raise for averages of a length that the variant's training does not keep."""
    said = [word.partition("=")[2] for word in words if name_of(word) == "weights"]
    kept = any("power_averages" in word for word in words if name_of(word) == "callbacks")
    if said and said[-1] not in ("ema", "net") and not kept:
        raise ConfigError(
            f"{label}: weights={said[-1]} needs callbacks=power_averages in base=; "
            "weights=ema and net do not"
        )


def check_pairs(label: str, words: Iterable[str], measure: Iterable[str]) -> None:
    """Raise for a figure of pairs, where samples are not made from what they are compared with."""
    of_pairs = (["pairs"], ["ensembles"])
    paired = next((name for name in measure if metrics_for([name]) in of_pairs), None)
    if paired and "from_image=held_out" not in words:
        raise ConfigError(
            f"{label}: {paired} compares a sample with what it was made from: "
            "from_image=held_out inpaint=half, say"
        )
    several = any(name_of(word) == "versions" and word != "versions=1" for word in words)
    if paired and metrics_for([paired]) == ["ensembles"] and not several:
        raise ConfigError(f"{label}: {paired} is of several samples of one truth: versions=5, say")


def amount(budget: Any, equal: str) -> float:
    """`5min` -> 300.0 where time is equal, else a number."""
    found = re.fullmatch(r"([\d.]+(?:e\d+)?)\s*(s|min|h)?", str(budget).strip())
    number = float(found[1]) if found and found[1].count(".") < 2 else 0.0
    unit = found[2] if found else None
    if number <= 0 or (unit is None) != (equal != "time"):
        wanted = "a time, as 60s, 5min or 2h" if equal == "time" else f"a number of {equal}"
        raise ConfigError(f"budget: {budget!r} is not {wanted} (equal={equal})")
    return number * UNITS.get(unit or "", 1.0)


def slug(name: str) -> str:
    """The name as a folder: `top-K exact` -> `top-K_exact`."""
    return re.sub(r"[^\w.+=-]+", "_", name).strip("_.")


def _is_part(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1
