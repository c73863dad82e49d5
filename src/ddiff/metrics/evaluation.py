"""Evaluation: from samples and data to figures, for `evaluate` and for a training."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard import SummaryWriter

from ddiff.artifacts.trained import Trained
from ddiff.config.options import Evaluate, Train
from ddiff.config.resolvers import judged
from ddiff.config.targets import build
from ddiff.config.trees import flat
from ddiff.data import Data
from ddiff.data.latent import FREE
from ddiff.data.opening import Array, Stack, holds_volumes, opened
from ddiff.data.source import Again, Labelled
from ddiff.metrics.figures import Case, Figure, Metric, Omitted
from ddiff.nets.conditions import Layout
from ddiff.sampling.conditions import conditions_for
from ddiff.sampling.generation import Generation, drawing, generation_of
from ddiff.sampling.given import HELD_OUT, MOST, Given, given_of, refuse_alone
from ddiff.sampling.writing import (
    Drawing,
    Request,
    default_out,
    draw,
    made_from,
    origin_of,
    rule_of,
    sampled,
)
from ddiff.system.console import console, show_table
from ddiff.system.devices import device_for
from ddiff.system.errors import ConfigError
from ddiff.system.files import check_outputs, write_json

BETTER = {"lower": "↓", "higher": "↑", None: ""}


def evaluate(options: Evaluate, drawn_by: Drawing = draw) -> None:
    """Everything that `python -m ddiff.evaluate` does with a valid config."""
    if bool(options.run) == bool(options.samples):
        raise ConfigError("give either run=<run or checkpoint> or samples=<file or folder>")
    if options.engine and not options.run:
        raise ConfigError("engine: nothing is drawn with samples=; leave engine out")
    for name in ("shape", "from_image"):
        if getattr(options, name) and not options.run:
            raise ConfigError(f"{name}: nothing is drawn with samples=; leave {name} out")
    if not options.data and not options.reference:
        raise ConfigError("measured against what? Give data=... or reference=<file or folder>")
    path, made = Path(options.samples or ""), {}
    trained = draw_now = asked = layout = given = None
    if options.run:
        trained = Trained.load(options.run, options.weights, options.accelerator, options.shape)
        if options.from_image == HELD_OUT and options.data and not _same(options, trained):
            raise ConfigError(
                "data: from_image=held_out takes the run's own; others are measured with "
                "from_image=FOLDER reference=FOLDER"
            )
        given = given_of(options, trained)
        generation = generation_of(trained, **drawing(options), given=given)
        path = default_out(trained, generation, options)
        path = path.with_name(path.name + ".npy")
        made = _made(trained, options, path, given)
        request = Request(trained, generation, options, path)
        if generation.layout.by_rows:
            asked, layout = request.y, generation.layout
        draw_now = None if made else partial(drawn_by, request)
    else:
        refuse_alone(options)
    out = _target(options, trained, path)
    before = _before(out, made) if made and options.out is None else None
    if draw_now:
        beside = [path, path.with_suffix(".json")]
        check_outputs(beside, options.overwrite, "other samples have this name: rename them")
    if before is None:
        check_outputs([out], options.overwrite)
    data = build(judged(options.data)) if options.data else None
    if data:
        data.prepare_data()
        data.setup("fit")
    if draw_now:
        made = draw_now()
    stacks = _opened(path, options, data)
    samples, reference = stacks["samples"], stacks.get("reference")
    case = case_for(options, options.cache, options.accelerator, samples, data, reference)
    case = replace(case, asked=asked, layout=layout)
    if options.reference and options.versions > 1:
        case = beside_truths(case, len(case.held_out), options.versions)
    elif options.from_image == HELD_OUT and not options.reference:
        case = beside_truths(case, min(MOST, len(case.held_out)), options.versions)
    read_as = {name: stack.read_as for name, stack in stacks.items() if stack.read_as}
    facts = {"source": str(path), "read_as": read_as, **_facts(made)}
    found = facts | measured(case, options.metrics)
    if before and not options.overwrite:
        new = {(figure["name"], figure["protocol_id"]) for figure in found["figures"]}
        older = [f for f in before["figures"] if (f["name"], f["protocol_id"]) not in new]
        found["figures"] += older
    write_json(out, found)
    if trained:
        with SummaryWriter(str(trained.run_dir / "tensorboard")) as board:
            for figure in found["figures"]:
                tag = f"evaluate/{path.stem}/{figure['name']}"
                board.add_scalar(tag, figure["value"], trained.step)
    print_figures(f"{samples} against {case.reference}", found)
    console.print(f"figures     {out}")


class Examination:
    """Evaluation of a net in training: draws samples now and then, and measures them.

    It is built before the training, so that a metric that cannot be measured is reported then.
    """

    def __init__(self, options: Train, data: Data) -> None:
        self.options = options
        drawn = options.evaluation
        self.layout = Layout.of_net(options.net)
        self.y = conditions_for(options.sampling.y, drawn.num_samples, self.layout, data.examples)
        data = data.original
        stand_in = Stack(data.train, "samples")
        case = case_for(options, drawn.cache, options.trainer.accelerator, stand_in, data, None)
        told = {"asked": self.y, "layout": self.layout} if self.layout.by_rows else {}
        self.case = replace(case, make_extractor=cache(case.make_extractor), **told)
        suited(options.metrics, self.case)

    def __call__(self, generation: Generation) -> dict[str, Any]:
        drawn = self.options.evaluation
        batches = sampled(generation, drawn.num_samples, drawn.batch_size, self.y)
        samples = np.concatenate([batch.cpu().numpy() for batch in batches])
        labels = None if self.layout.by_rows else self.y
        stack = Stack(Array(samples, Path("samples"), "signed", labels), "samples")
        return measured(replace(self.case, samples=stack), self.options.metrics)


def case_for(
    options: Evaluate | Train,
    cache: str | None,
    accelerator: str,
    samples: Stack,
    data: Data | None,
    reference: Stack | None,
) -> Case:
    """Build the case: the samples against a reference of the user, or else against the data."""
    train, held_out = None, reference
    if held_out is None:
        assert data is not None
        name = str(judged(options.data)["_target_"]).rpartition(".")[2].lower()
        train, held_out = Stack(data.train, f"{name} train"), Stack(data.val, f"{name} held out")
    return Case(
        samples=samples,
        train=train,
        held_out=held_out,
        make_extractor=partial(
            build,
            options.extractor,
            shape=samples.shape,
            data=OmegaConf.to_container(judged(options.data)) if data else {},
            device=device_for(accelerator),
        ),
        data=data,
        paired=train is None,
        cache=Path(cache).expanduser() if cache else None,
        seed=options.seed,
    )


def beside_truths(case: Case, number: int, versions: int) -> Case:
    """Return the case of samples made from the first `number` held-out ones, so many `versions` of
    each, which belong to it.

    Where they have no labels, they shall be what the held-out ones are.
    """
    truths = Again(case.held_out.source, number, len(case.samples), versions)
    held_out = Stack(truths, f"{case.held_out.name}, each completed")
    samples = case.samples
    if samples.labels is None and held_out.labels is not None and not case.layout:
        samples = Stack(Labelled(samples.source, held_out.labels), samples.name)
    return replace(case, samples=samples, held_out=held_out, paired=True, versions=versions)


def suited(nodes: DictConfig, case: Case) -> tuple[list[Metric], dict[str, str]]:
    """Return the metrics that can be measured, and the reasons why the others cannot.

    With metrics=auto the others are left out; otherwise the first of them raises ConfigError.
    """
    if not nodes:
        raise ConfigError("metrics: none chosen; metrics=auto, or a list like [fid,labels]")
    metrics: dict[str, Metric] = {
        str(name): build(node) for name, node in nodes.items() if name != "auto"
    }
    found = {name: metric.obstacle(case) for name, metric in metrics.items()}
    obstacles = {name: why for name, why in found.items() if why}
    if obstacles and "auto" not in nodes:
        name, why = next(iter(obstacles.items()))
        raise ConfigError(f"metrics: {name}: {why}")
    return [metric for name, metric in metrics.items() if name not in obstacles], obstacles


def measured(case: Case, nodes: DictConfig) -> dict[str, Any]:
    """Measure the case: {"figures": [...], "omitted": {metric or figure: why}}."""
    metrics, omitted = suited(nodes, case)
    found = [one for metric in metrics for one in metric(case)]
    omitted |= {one.name: one.why for one in found if isinstance(one, Omitted)}
    return {"figures": [f.plain() for f in found if isinstance(f, Figure)], "omitted": omitted}


def _made(trained: Trained, options: Evaluate, npy: Path, given: Given | None) -> dict[str, Any]:
    """Return how the samples in `npy` were made if nothing that decides them differs, else {}."""
    beside = npy.with_suffix(".json")
    made = _object(beside)
    if not npy.is_file() or not isinstance(made.get("options"), dict):
        return {}
    same = json.loads(json.dumps(origin_of(trained, options, given)))
    if "given" in made["options"] and not given:
        return {}
    found = {**made, "options": {name: made["options"].get(name) for name in same["options"]}}
    part = made.get("first", 0), made.get("y_period", options.num_samples)
    if part != (0, options.num_samples) or any(found.get(n) != value for n, value in same.items()):
        return {}
    console.print(f"samples     {npy} (there already)")
    return made


def _same(options: Evaluate, trained: Trained) -> bool:
    """Return True if the data measured against have the samples of those of the run."""
    nodes: Any = [OmegaConf.to_container(judged(o.data)) for o in (options, trained.options)]
    here, there = ({k: v for k, v in node.items() if k not in FREE} for node in nodes)
    return here == there


def _before(out: Path, made: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the figures in `out` if they are of these very samples, else None."""
    found, facts = _object(out), json.loads(json.dumps(_facts(made)))
    same = all(found.get(name) == value for name, value in facts.items())
    return found if same and isinstance(found.get("figures"), list) else None


def _object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} if it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _opened(path: Path, options: Evaluate, data: Data | None) -> dict[str, Stack]:
    """Open the samples and, if there is one, the reference, with one shape for both.

    The shape is the data's, or else that of a folder of volumes, or else that of an array. Prints
    what was assumed of them.
    """
    shape = tuple(data.shape) if data else None
    places = {"samples": (path, "signed" if options.run else options.value_range)}
    if options.reference:
        places["reference"] = (Path(options.reference), options.value_range)

    def tells_least(name: str) -> int:
        place = places[name][0]
        return 0 if holds_volumes(place) else 2 if place.is_dir() else 1

    found: dict[str, Stack] = {}
    for name in sorted(places, key=tells_least):
        found[name] = opened(places[name][0], shape, places[name][1])
        shape = found[name].shape
        if found[name].read_as:
            console.print(f"{name:<12}{places[name][0]}: {found[name].read_as}")
    return {name: found[name] for name in places}


def _facts(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the samples come from, for reports."""
    if not made:
        return dict.fromkeys(("step", "images_seen", "train_seconds", "sampling"))
    options, spent = made["options"], made["spent"]
    return {
        "step": made["step"],
        "images_seen": spent.get("images"),
        "train_seconds": spent.get("seconds"),
        "sampling": {
            "solver": options["solver"]["_target_"].rpartition(".")[2],
            "num_steps": options["solver"]["num_steps"],
            "guidance": options["guidance"].get("scale"),
            "rule": rule_of(options["guidance"]),
            "evaluations": made["evaluations"],
            "seconds_per_sample": made["seconds_per_sample"],
            "weights": options["weights"],
            "precision": made["precision"],
            "seed": options["seed"],
            **({"from": " ".join(found)} if (found := made_from(options)) else {}),
            "options": flat(options["solver"]),
        },
    }


def _target(options: Evaluate, trained: Trained | None, path: Path) -> Path:
    if options.out:
        return Path(options.out)
    if trained:
        return trained.run_dir / "evaluations" / f"{path.stem}.json"
    return path.with_name(f"{path.name if path.is_dir() else path.stem}.evaluation.json")


def print_figures(title: str, found: Mapping[str, Any]) -> None:
    """Print the figures as a table, with the protocols that its last column numbers below it."""
    protocols: list[str] = []
    rows = []
    for f in found["figures"]:
        interval = "" if f["low"] is None else f"{f['low']:.4g} .. {f['high']:.4g}"
        how = ", ".join(f"{name} {value}" for name, value in f["protocol"].items())
        if how not in protocols:
            protocols.append(how)
        name = f"{f['name']} {BETTER[f['better']]}"
        rows.append([name, f"{f['value']:.4g}", interval, str(f["n"]), f"{protocols.index(how)}"])
    show_table(["figure", "value", "95%", "n", "protocol"], rows, title, left=(0, 2, 4))
    for number, how in enumerate(protocols):
        console.print(f"protocol {number}  {how}")
    omitted: dict[str, str] = found["omitted"]
    for why in dict.fromkeys(omitted.values()):
        names = ", ".join(name for name, reason in omitted.items() if reason == why)
        console.print(f"left out    {names}: {why}")
