"""`python -m ddiff <verb>` is `python -m ddiff.<verb>`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ddiff
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


def test_it_says_its_version() -> None:
    assert run("--version").stdout == f"ddiff {ddiff.__version__}\n"


def test_bash_completes_verbs_choices_and_options(tmp_path: Path) -> None:
    """As bash calls the function that `ddiff completion bash` defines."""
    (tmp_path / "ddiff").write_text(f'#!/bin/sh\nexec {sys.executable} -m ddiff "$@"\n')
    (tmp_path / "ddiff").chmod(0o755)
    script = """
eval "$(ddiff completion bash)"
try() {
  COMP_LINE="$*"; COMP_WORDS=($COMP_LINE); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
  _ddiff
  echo "${COMPREPLY[@]}"
}
try ddiff tr
try ddiff train schedule=co
try ddiff train experiment=digits_cfg net.patch
"""
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.stderr == ""
    verbs, choices, options = done.stdout.splitlines()
    assert verbs == "train"
    assert choices == "schedule=constant schedule=cosine"
    assert options == "net.patch_size="
