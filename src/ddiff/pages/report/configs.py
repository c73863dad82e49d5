"""Differences between configs: groups of runs that differ in their seed alone, and labels."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddiff.config.trees import is_as_before
from ddiff.pages.report.records import Record, shown

PLACES = ("seed", "run_dir", "runs", "ckpt_path")  # where a run lies, not what it is
MEASURING = (
    "evaluation.",
    "metrics.",
    "extractor.",
    "profiler.",
    "logger.",
    "callbacks.",
)  # on the way
UNSAID = (*MEASURING, "trainer.", "sampling.", "budget.log_every.", "budget.val_every.",
          "budget.sample_every.", "budget.save_every.", "budget.pause_at.",
          "data.num_workers.", "memory_budget_gb.",
          "experiment.", "name.", *(f"{place}." for place in PLACES))  # fmt: skip
MOST_WORDS = 3  # of a label, about what was changed of the recipe
ABSENT = "–"


@dataclass(frozen=True)
class Difference:
    """Options that go together, the shortest first, and their value in each config."""

    names: list[str]
    values: list[Any]
    implied: bool  # follows from the target of the group it belongs to

    @property
    def title(self) -> str:
        return self.names[0].removesuffix("._target_")

    @property
    def plain(self) -> bool:
        """True if the values need no name before them: names of experiments and of targets."""
        return self.names[0] == "name" or self.names[0].endswith("_target_")

    @property
    def words(self) -> list[str]:
        """Words for the label of each config: `Uniform`, `lr=0.1`, or nothing."""
        prefix = "" if self.plain else f"{self.names[0].rpartition('.')[2]}="
        return ["" if value == ABSENT else f"{prefix}{value}" for value in self.values]


@dataclass(frozen=True)
class Group:
    """Runs that are equal but for their seed."""

    label: str
    runs: list[Record]


def grouped(records: Sequence[Record]) -> tuple[list[Group], list[Difference], list[str]]:
    """Groups in order of their first run, in what their configs differ, and what several groups
    all changed of their recipes."""
    members: dict[Hashable, list[Record]] = {}
    for record in records:
        key = tuple(sorted((name, str(value)) for name, value in _identity(record).items()))
        members.setdefault(key, []).append(record)
    options = [_identity(runs[0]) for runs in members.values()]
    differences = differing(options)
    labels = labelled(differences, [str(o.get("name", "run")) for o in options])
    changes = [_changed(runs, o) for runs, o in zip(members.values(), options, strict=True)]
    items = [set(change.items()) for change in changes]
    shared = set.intersection(*items) if len(items) > 1 else set()
    groups = []
    for i, runs in enumerate(members.values()):
        told = {n for d in differences if f" {d.words[i]} " in f" {labels[i]} " for n in d.names}
        words = _untold(changes[i], shared, told)
        groups.append(Group(" ".join([labels[i], *words]), runs))
    return groups, differences, sorted(word for _, word in shared)


def _identity(record: Record) -> dict[str, Any]:
    """The options that make a run what it is."""
    follows = {"data.seed"} if record.options.get("data.seed") == record.seed else set()
    return {
        name: value
        for name, value in record.options.items()
        if name not in PLACES and name not in follows and not name.startswith(MEASURING)
        if not is_as_before(name, value, record.options)
    }


def _changed(runs: Sequence[Record], options: dict[str, Any]) -> dict[str, str]:
    """Changes that a group's command made to its recipe, as words of a label.

    For example `net.patch_size` -> `net.patch_size=1`. Options of measuring and of the place of the
    run are left out.
    """
    overrides = next((run.overrides for run in runs if run.overrides), {})
    found = {}
    for name, value in overrides.items():
        if f"{name}.".startswith(UNSAID):
            continue
        if name in options:
            found[name] = f"{name}={shown(name, options[name])}"
        elif f"{name}._target_" in options:  # a choice; of a sweep its name is not known
            target = shown("_target_", options[f"{name}._target_"])
            found[name] = f"{name}={target if ',' in value else value}"
    return found


def _untold(
    change: Mapping[str, str], shared: Collection[tuple[str, str]], told: Collection[str]
) -> list[str]:
    """The changes that are neither shared nor told by the label, the first MOST_WORDS."""
    words = [
        word
        for name, word in change.items()
        if (name, word) not in shared and not {name, f"{name}._target_"} & {*told}
    ]
    if len(words) <= MOST_WORDS + 1:
        return words
    return [*words[:MOST_WORDS], f"and {len(words) - MOST_WORDS} more"]


def differing(configs: Sequence[dict[str, Any]]) -> list[Difference]:
    """The experiment's name first, then what was chosen for a whole group, then numbers."""
    together: dict[tuple[str, ...], list[str]] = {}
    values: dict[tuple[str, ...], list[Any]] = {}
    for name in dict.fromkeys(name for config in configs for name in config):
        row = [shown(name, config.get(name, ABSENT)) for config in configs]
        key = tuple(map(str, row))
        if len(set(key)) > 1:
            together.setdefault(key, []).append(name)
            values[key] = row
    chosen = {n: key for key, names in together.items() for n in names if n.endswith("_target_")}
    found = []
    for key, names in together.items():
        names.sort(key=lambda name: (_rank(name), len(name)))
        implied = all(_implied(name, key, chosen) for name in names)
        found.append(Difference(names, values[key], implied))
    return sorted(found, key=lambda d: (d.implied, _rank(d.names[0])))


def _rank(name: str) -> int:
    ranks = (name == "name", name.endswith("_target_"), name.startswith("budget."), True)
    return ranks.index(True)


def _implied(name: str, values: tuple[str, ...], chosen: dict[str, tuple[str, ...]]) -> bool:
    """Return True if this option follows from a target above it: one target, one value."""
    parts = name.split(".")
    above = (".".join([*parts[:depth], "_target_"]) for depth in range(1, len(parts)))
    for target in above:
        if target in chosen and target != name:
            return _told_apart([chosen[target], values]) == _told_apart([chosen[target]])
    return False


def labelled(differences: Sequence[Difference], names: Sequence[str]) -> list[str]:
    """The fewest options that tell the configs apart; a number that most share goes unsaid."""
    # the experiments' names; then, one by one, what tells most configs apart, until all are
    chosen = [d for d in differences if d.names[0] == "name"]
    while _told_apart([d.values for d in chosen]) < len(names) and len(chosen) < len(differences):
        gains = {
            _told_apart([one.values for one in (*chosen, d)]): d
            for d in reversed(differences)
            if d not in chosen
        }
        chosen.append(gains[max(gains)])
    chosen.sort(key=differences.index)
    rows = [difference.words for difference in chosen]
    for i, difference in enumerate(chosen):
        if not difference.plain:
            shorter = [*rows[:i], _unusual(rows[i]), *rows[i + 1 :]]
            rows = shorter if _told_apart(shorter) == _told_apart(rows) else rows
    labels = [" ".join(filter(None, words)) for words in zip(*rows, strict=True)] or list(names)
    return [label or name for label, name in zip(labels, names, strict=True)]


def _told_apart(rows: Sequence[Sequence[Any]]) -> int:
    """Number of configs that differ in these rows of values."""
    return max(1, len(set(zip(*(map(str, row) for row in rows), strict=True))))


def _unusual(words: list[str]) -> list[str]:
    """The words without the one that most configs have."""
    usual = max(words, key=lambda word: (word != "") * words.count(word))
    return ["" if word == usual and words.count(word) > 1 else word for word in words]
