"""Descriptions of options, read from the YAML files: for `--help` and the reference pages."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class ChoiceHelp:
    """A choice of a config group, as its YAML describes it."""

    name: str
    about: str
    options: list[str]  # lines of YAML with their comments; none of a recipe


def options_of(verb: str) -> list[str]:
    """Return the lines of a verb's YAML that hold its own options, with their comments."""
    text = (files("ddiff.conf") / f"{verb}.yaml").read_text(encoding="utf-8")
    return text.split("# options", 1)[-1].strip("\n").splitlines()


def groups_of(verb: str) -> list[tuple[str, str]]:
    """Return the config groups of a verb, each with its default."""
    text = (files("ddiff.conf") / f"{verb}.yaml").read_text(encoding="utf-8")
    return re.findall(r"^  - (\w+): (\w+|\[.*\])", text, re.M)


def choices_of(group: str) -> Iterator[ChoiceHelp]:
    """Yield the choices of a config group, by name."""
    for name in choice_names(group):
        text = (files("ddiff.conf") / group / f"{name}.yaml").read_text(encoding="utf-8")
        lines = text.splitlines()
        about = next(line for line in lines if line.startswith("# conf/")).partition(" : ")[2]
        options = []
        if not lines[0].startswith("# @package"):  # a recipe is many options of other groups
            lines = textwrap.dedent("\n".join(_below(lines[1:]))).splitlines()
            options = [line for line in lines if _is_option(line)]
        yield ChoiceHelp(name, about, options)


def help_text(verb: str, doc: str) -> str:
    """Help of a verb: its purpose, its options with their comments, and each group's choices.

    Options are read from the YAML files, the only place where they are described.
    """
    lines = [" ".join(doc.split()), "", f"Options (python -m ddiff.{verb} key=value ...):"]
    lines += ["  " + line for line in options_of(verb)]
    for group, default in groups_of(verb):
        lines += ["", f"{group}= (default {default})"]
        for choice in choices_of(group):
            lines.append(f"  {choice.name:<20} {choice.about}")
            lines += [f"      {line}" for line in choice.options]
        if default == "from_run":
            lines.append(f"  {default:<20} the run's own")
    lines += [
        "",
        "An option of a choice: group.option=value. A sweep: -m group=a,b seed=1,2.",
        "Your own configs: --config-dir DIR. The composed config: --cfg job --resolve.",
    ]
    return "\n".join(lines)


def _below(lines: list[str]) -> list[str]:
    """Return the lines below the first key if there are no others, as in a group of many."""
    return lines[1:] if all(line.startswith(" ") for line in lines[1:]) else lines


def _is_option(line: str) -> bool:
    return bool(re.match(r"\w", line)) and not line.startswith(("defaults:", "_"))


def choice_names(group: str) -> list[str]:
    """Return the choices of a group that come with ddiff."""
    folder = files("ddiff.conf") / group
    if not folder.is_dir():
        return []
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))
