"""Options as the words of a command line, as Hydra reads them."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf


def group_words(group: str, node: Any) -> tuple[str, str]:
    """The words that put these options in the place of a group's choice."""
    return f"~{group}", f"+{group}={written(node)}"


def written(value: Any) -> str:
    """A plain value, a list or a tree as it is written after the = of an option."""
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{written(one)}" for name, one in value.items()) + "}"
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, Sequence):
        return "[" + ",".join(map(written, value)) + "]"
    return "null" if value is None else str(value).lower()
