"""`python -m ddiff <verb> key=value ...`, also installed as the command `ddiff`."""

import ast
import runpy
import sys
from pathlib import Path
from typing import NoReturn

import ddiff

VERBS = ("train", "sample", "evaluate", "report", "view", "benchmark", "importance", "plan",
         "export", "data", "study", "recipe")  # fmt: skip

COMPLETION = f"""_ddiff() {{
  local verb="${{COMP_WORDS[1]}}" word="${{COMP_WORDS[COMP_CWORD]}}" choices
  local rest="${{COMP_LINE#*ddiff }}"
  if [ "$COMP_CWORD" -le 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(VERBS)}" -- "$word"))
    return
  fi
  # Hydra's answer for this verb
  choices=$(COMP_LINE="ddiff ${{rest#"$verb"}}" ddiff "$verb" -sc query=bash 2>/dev/null)
  COMPREPLY=($(compgen -o nospace -o default -W "$choices" -- "$word"))
}}
COMP_WORDBREAKS=${{COMP_WORDBREAKS//=}}
complete -o nospace -o default -F _ddiff ddiff"""


def main() -> None:
    """Runs the verb that the command line names, as `python -m ddiff.<verb>` does."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        return
    verb = words[0]
    if verb == "--version":
        print(f"ddiff {ddiff.__version__}")
        return
    if words == ["completion", "bash"]:
        print(COMPLETION)
        return
    if verb not in VERBS:
        from ddiff.system.errors import nearest

        _refuse(f"there is no verb {verb!r}{nearest(verb, list(VERBS))}; ddiff --help lists them")
    sys.argv = [f"ddiff {verb}", *words[1:]]
    runpy.run_module(f"ddiff.{verb}", run_name="__main__", alter_sys=True)


def help_text() -> str:
    """Every verb and the first line of what it says of itself, without importing any."""
    lines = ["ddiff <verb> key=value ...", ""]
    lines += [f"  {verb:<12}{_about(verb)}" for verb in VERBS]
    lines += ["", "ddiff <verb> --help explains every option."]
    return "\n".join([*lines, 'eval "$(ddiff completion bash)" completes verbs and options.'])


def _about(verb: str) -> str:
    folder = Path(__file__).parent
    file = folder / f"{verb}.py"
    source = (file if file.is_file() else folder / verb / "__main__.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]


def _refuse(message: str) -> NoReturn:
    print(f"ddiff: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
