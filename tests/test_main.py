"""`python -m ddiff <verb>` is `python -m ddiff.<verb>`."""

import subprocess
import sys

import pytest

from ddiff.__main__ import VERBS


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ddiff", *words], capture_output=True, text=True, check=False
    )


def test_help_names_every_verb_and_what_it_does() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for verb in VERBS:
        (line,) = [line for line in lines if line.split()[:1] == [verb]]
        assert len(line.split()) > 3
    assert run().stdout == done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_help(verb: str) -> None:
    done = run(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Options (python -m ddiff.{verb} key=value ...):" in done.stdout


def test_a_wrong_verb_or_option_is_one_line() -> None:
    done = run("trian")
    assert done.returncode == 2
    assert done.stderr == (
        "ddiff: there is no verb 'trian'; did you mean 'train'?; ddiff --help lists them\n"
    )
    done = run("train", "experiment=digits_cfg", "seeed=1")
    assert done.returncode == 2
    assert "seeed: no such option; did you mean 'seed'?" in done.stderr
    assert done.stderr.count("\n") == 1
