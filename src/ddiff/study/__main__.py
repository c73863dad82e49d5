"""Compares variants of a recipe over seeds, and says which of them pay off."""

import re
import shlex
import sys

from omegaconf import DictConfig

from ddiff.config.options import Study, Train, hints_of
from ddiff.config.shell import config_dir, entry
from ddiff.config.sweeps import name_of
from ddiff.system.errors import ConfigError, nearest

MORE: list[str] = []  # options of ddiff.train on the command line
COMMAND: list[str] = []  # the command line as it was written
TEXTS = ("base", "vary")  # options whose values Hydra's grammar cannot read


def prepare(argv: list[str]) -> None:
    """Sets the options of ddiff.train apart, and quotes what is not Hydra's to read."""
    words: list[str] = []
    MORE.clear()
    COMMAND[:] = argv
    for word in argv:
        name, _, value = word.partition("=")
        if word in ("plan", "report", "run"):
            words.append(f"do={word}")
        elif name in TEXTS and value[:1] not in ("'", '"'):
            escaped = value.replace("\\", "\\\\").replace("'", "\\'")
            words.append(f"{name}='{escaped}'")
        elif word.startswith("-") or "=" not in word or _is_own(name_of(word)):
            words.append(word)
        else:
            _check_known(name_of(word))
            MORE.append(word)
    sys.argv[1:] = words


def _is_own(name: str) -> bool:
    """Return True for an option of the study; all others are ddiff.train's."""
    return name in {*hints_of(Study), "study"} or name.split(".")[0] in ("engine", "race", "hydra")


def _check_known(name: str) -> None:
    """Raise for a name that is neither the study's nor ddiff.train's: Hydra may not even be able to
    read its value."""
    from ddiff.study.plan import NOT_OF_TRAIN

    known = {option.split(".")[0] for option in hints_of(Train)} | {"experiment", "debug"}
    known |= {*NOT_OF_TRAIN}
    first = re.split(r"[./]", name)[0]
    if first not in known and not first.startswith("_"):
        choices = sorted(known | hints_of(Study).keys())
        raise ConfigError(f"{name}: no such option{nearest(first, choices)}")


@entry("study", prepare=prepare)
def main(cfg: DictConfig) -> None:
    """Compares variants of a recipe over seeds: every run gets the same amount of time, steps or
    samples, seeds are paired, and each variant gets a verdict: better, worse, or no difference
    larger than X was seen. Started again, it goes on where it was. Options of ddiff.train on this
    command line are for all variants: data=images data.root=photos."""
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig

    from ddiff.config.options import typed
    from ddiff.config.targets import build
    from ddiff.config.trees import resolved
    from ddiff.config.validation import validate
    from ddiff.study.plan import plan_of

    cfg = resolved(cfg)
    validate(cfg, "study", stages=(False,))
    options = typed(Study, cfg)
    chosen = HydraConfig.get().runtime.choices.get("study")
    plan = plan_of(options, chosen, MORE, config_dir(COMMAND))
    folder = Path(options.out or f"studies/{plan.name}")
    words = [
        w for w in COMMAND if w not in ("report", "run") and not w.startswith(("publish=", "out="))
    ]
    command = f"python -m ddiff.study {shlex.join(words)}"
    from ddiff.study.report import write

    if options.do == "report":
        write(folder, command, options.publish)
        return

    from ddiff.study.preparing import prepared
    from ddiff.study.running import held, run, take_runs
    from ddiff.system.console import console

    engine = build(options.engine)
    with held(folder, engine):
        ready = prepared(plan, folder, engine)
        if options.trained:
            take_runs(ready, Path(options.trained))
        console.print(f"{plan.name}: {ready.cost_in_words(engine.slots)}\n{folder}")
        if options.do == "plan":
            return
        insist = any(word.startswith("decide=") for word in COMMAND)
        run(ready, engine, options.retry, insist)
        write(folder, command, options.publish)


if __name__ == "__main__":
    main()
