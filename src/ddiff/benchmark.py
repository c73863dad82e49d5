"""Compares backends and precisions on the same work, side by side."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ddiff.config.shell import entry
from ddiff.recipes.choosing import choose_recipe

if TYPE_CHECKING:
    from ddiff.benchmarking import Choice, NetUnderTest
    from ddiff.config.options import Benchmark


@entry("benchmark", prepare=choose_recipe)
def main(cfg: DictConfig) -> None:
    """Times backends, precisions and exported files on the same work, and says beside each time
    what it did to the numbers. The first row is plain eager float32: speed-up is its time over that
    of the row. Rows run in turn, round by round, each ratio is taken within a round, and the
    median of the rounds is shown: what else the machine does slows all rows alike. Quartiles tell
    how far rounds differ. Cold start is what the first batch takes longer than a later one:
    building and compiling. PSNR and max error compare the row's samples with eager float32's from
    the same noise, in [-1, 1]: above 40 dB a difference is hard to see, above 100 dB it is
    float32's rounding. A row that cannot run says why. More in docs/benchmark.md."""
    from ddiff.benchmarking import NetUnderTest, checked, compare, sampling, training
    from ddiff.system.devices import keep_freed_memory
    from ddiff.system.threads import threads

    keep_freed_memory()
    given = {re.split(r"[.=/@]", word.lstrip("+~"), maxsplit=1)[0]
             for word in HydraConfig.get().overrides.task}  # fmt: skip
    options = checked(cfg, given)
    with threads(options.threads, options.accelerator):
        # a backend is an exported file where its name has a slash or a suffix
        backends = [text if "/" in text or Path(text).suffix else chosen("backend", text)
                    for text in options.backends]  # fmt: skip
        precisions = [chosen("precision", text) for text in options.precisions]
        subject = NetUnderTest.of(options, given)
        if options.mode == "train":
            contests = training.contests(subject, options.batch_sizes, backends, precisions)
        else:
            solvers = solvers_of(subject, options)
            contests = sampling.contests(
                subject, solvers, options.batch_sizes, backends, precisions
            )
        compare(subject, options, list(contests))


def chosen(group: str, text: str, *fixed: str) -> "Choice":
    """`compiled+regional+mode:max-autotune`: a name of conf/<group>/, then its options."""
    from ddiff.benchmarking import Choice
    from ddiff.config.validation import validate

    name, *options = text.split("+")
    pairs = (option.partition(":") for option in options)
    own = [f"{group}.{option}={value or 'true'}" for option, _, value in pairs]
    cfg = compose(overrides=[f"+{group}={name}", *fixed, *own])
    validate(cfg)
    return Choice(text, cfg[group])


def solvers_of(subject: "NetUnderTest", options: "Benchmark") -> "list[Choice]":
    """Those asked for, or the run's own."""
    from ddiff.benchmarking import Choice

    steps = [] if options.num_steps is None else [f"solver.num_steps={options.num_steps}"]
    if options.solvers:
        return [chosen("solver", text, *steps) for text in options.solvers]
    own = subject.options.solver.copy()
    own.num_steps = options.num_steps or own.num_steps
    return [Choice(own["_target_"].rpartition(".")[2], own)]


if __name__ == "__main__":
    main()
