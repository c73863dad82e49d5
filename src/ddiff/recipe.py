"""Chooses what to train on a data set, and says why."""

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddiff.config.shell import config_dir, entry
from ddiff.recipes.choosing import name_for

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry("recipe")
def main(cfg: "DictConfig") -> None:
    """Looks at a data set, times a few steps on this device, and writes an experiment that suits
    both: net, objective, schedule, timesteps, batch, rate, steps, average and solver, each with a
    reason and the evidence for it. The last line is the command that trains it. It trains nothing
    itself."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from ddiff.config.options import Recipe, typed
    from ddiff.config.sweeps import name_of, overrides_of_command
    from ddiff.config.trees import resolved
    from ddiff.config.validation import validate
    from ddiff.study.plan import amount
    from ddiff.system.errors import ConfigError

    said = {name_of(word) for word in overrides_of_command()}
    choice = str(HydraConfig.get().runtime.choices["data"])
    node: Any = OmegaConf.to_container(cfg.data, resolve=False)
    given = {key: value for key, value in node.items() if f"data.{key}" in said}
    cfg.data.batch_size = 1  # the recipe decides it
    cfg = resolved(cfg)
    validate(cfg, "recipe")
    options = typed(Recipe, cfg)
    seconds = amount(options.budget, "time")
    memory = number_of_bytes(options.memory)
    folder = Path(options.out or config_dir(sys.argv[1:]) or "recipes")
    name = options.name or name_for(choice, given)
    file = folder / f"experiment/{name}.yaml"
    if file.exists() and not options.overwrite:
        raise ConfigError(f"{file} exists already; overwrite=true replaces it, name= renames it")

    from importlib.resources import files

    if (files("ddiff.conf") / f"experiment/{name}.yaml").is_file():
        raise ConfigError(f"name: ddiff has an experiment {name} of its own; say another name=")

    from ddiff.build import build
    from ddiff.recipes.advice import expectations, lengths
    from ddiff.recipes.budget import within_budget
    from ddiff.recipes.fingerprint import fingerprint
    from ddiff.recipes.writing import as_yaml, facts_in_words, show
    from ddiff.system.console import console, duration, show_table
    from ddiff.system.files import replacing
    from ddiff.system.threads import threads

    data = build(options.data)
    data.prepare_data()
    data.setup("fit")
    facts = fingerprint(data)
    show_table((), facts_in_words(facts), "data", left=(0, 1))
    words = [word for word in overrides_of_command() if re.match(r"\+*data[=.]", word)]
    words.append(f"trainer.accelerator={options.accelerator}")
    with threads(options.threads, options.accelerator):
        found = within_budget(seconds, memory, words, facts, data)
    choices = [*found.choices, *lengths(found.steps, found.batch)]
    expected = expectations(facts, found.steps, found.batch * found.parts)
    show(choices)
    cost = f"{found.step * 1e3:.3g} ms a step on {found.device}: {found.steps} steps"
    console.print(f"budget      {duration(seconds)}, {cost}")
    for line in expected:
        console.print(f"expect      {line}", markup=False)
    about = [f"{key}: {value}" for key, value in facts_in_words(facts)]
    about += [f"budget: {duration(seconds)}, {cost}", *(f"expect: {line}" for line in expected)]
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, "w") as out:
        out.write(as_yaml(name, (choice, given), choices, about))
    console.print(f"recipe      {file}")
    place = shlex.quote(str(folder))
    console.print(f"train by    python -m ddiff.train --config-dir {place} experiment={name}")


def number_of_bytes(memory: str | None) -> float | None:
    """`4GB` -> 4e9."""
    if memory is None:
        return None
    return float(memory[:-2]) * {"MB": 1e6, "GB": 1e9}[memory[-2:]]


if __name__ == "__main__":
    main()
