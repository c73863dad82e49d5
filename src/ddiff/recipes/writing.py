"""Recipes as files: a YAML of an experiment, with a reason and the evidence for each choice."""

import textwrap
from collections.abc import Sequence
from typing import Any

import yaml

from ddiff.config.targets import GROUPS
from ddiff.recipes.advice import Choice
from ddiff.recipes.fingerprint import Fingerprint
from ddiff.system.console import show_table

WIDTH = 100


def facts_in_words(facts: Fingerprint) -> list[tuple[str, str]]:
    """Return the rows of a table of the fingerprint."""
    sides = "x".join(map(str, facts.shape))
    law = {
        "binary": "binary: nearly all at -1 or 1",
        "bounded": "bounded: many at -1 or 1",
        "unbounded": "unbounded: hardly any at -1 or 1",
    }[facts.law]
    few = f", {facts.colours} different ones" if facts.colours else ""
    repeated = f"{facts.copies} copies, {facts.near_copies} nearly"
    return [
        ("samples", f"{facts.number} of {sides} (looked at {facts.looked_at})"),
        ("values", f"{law}{few}; deviation {facts.spread:.3g}"),
        ("agreement", f"{facts.agreeing:.1%} of the pixels are the same in 95% of the samples"),
        ("correlation", f"over {facts.length:.3g} pixels"),
        ("repeated", repeated),
        ("classes", str(facts.classes or "none")),
        *([("told", ", ".join(facts.told))] if facts.told else []),
    ]


def show(choices: Sequence[Choice]) -> None:
    """Print a table of the choices, with the reason and the evidence for each."""
    rows = [(c.option, _text(c.value), c.because, c.evidence) for c in choices]
    show_table(("option", "value", "because", "evidence"), rows, "recipe", left=(0, 1, 2, 3))


def as_yaml(
    name: str,
    data: tuple[str, dict[str, Any]],
    choices: Sequence[Choice],
    about: Sequence[str],
) -> str:
    """Return the text of the experiment `name`.

    data: the choice of the group, and its options. about: lines of the comment at the top.
    """
    lines = ["# @package _global_", f"# experiment/{name}.yaml : written by ddiff.recipe"]
    for line in about:
        lines += _comment(line, "", hanging="  ")
    lines += ["defaults:", f"  - override /data: {data[0]}"]
    chosen = [choice for choice in choices if choice.option in GROUPS]
    for choice in chosen:
        lines += _reason(choice, "  ")
        lines.append(f"  - override /{choice.option}: {_text(choice.value)}")
    lines += ["  - _self_", f"name: {_text(name)}"]
    trees: dict[str, list[Choice]] = {}
    for choice in choices:
        if choice.option not in GROUPS:
            group, _, option = choice.option.partition(".")
            trees.setdefault(group if option else "", []).append(choice)
    for choice in trees.pop("", []):
        lines += _reason(choice, "")
        lines.append(f"{choice.option}: {_text(choice.value)}")
    if data[1]:
        lines.append("data:")
        lines += [f"  {option}: {_text(value)}" for option, value in data[1].items()]
    for group, inside in trees.items():
        lines.append(f"{group}:")
        for choice in inside:
            lines += _reason(choice, "  ")
            lines.append(f"  {choice.option.partition('.')[2]}: {_text(choice.value)}")
    return "\n".join(lines) + "\n"


def _reason(choice: Choice, indent: str) -> list[str]:
    return _comment(f"{choice.because} ({choice.evidence})", indent)


def _comment(text: str, indent: str, hanging: str = "") -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=start + hanging,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _text(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0") if 1e-4 <= abs(value) < 1e6 else repr(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n...\n").strip()
