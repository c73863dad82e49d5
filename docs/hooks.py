"""Hooks of mkdocs.yml: pages of the site that lie outside docs/ or are made from the code.

The README is the first page. The folders of experiments/ and the scripts of examples/ are pages
too. Each verb has a page of its options, made from the YAML as `--help` is, and the Python
interface has one, made from docstrings. Links between Markdown files of the repository become
links of the site.
"""

import ast
import os
import re
from importlib import import_module
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from ddiff.__main__ import VERBS
from ddiff.config.help import choices_of, groups_of, options_of

ROOT = Path(__file__).parents[1]
PYTHON = {  # what the page of the Python interface shows of each module; []: all that is public
    "ddiff.model": [],
    "ddiff.diffusion.loss": ["loss", "Losses"],
    "ddiff.diffusion.solvers": [],
    "ddiff.diffusion.schedules": [],
    "ddiff.diffusion.objectives": [],
    "ddiff.diffusion.guidance": [],
    "ddiff.diffusion.timesteps": [],
    "ddiff.nets": [],
}


def on_config(config: MkDocsConfig) -> None:
    """Adds the pages that are made here to the navigation."""
    assert config.nav
    sections: dict[str, list] = {}
    for entry in config.nav:
        ((title, pages),) = entry.items()
        sections[title] = pages
    sections["Reference"] += [f"reference/{verb}.md" for verb in VERBS]
    sections["Reference"] += [{"examples": [f"examples/{p.stem}.md" for p in _examples()]}]
    sections["Results"] += [{p.parent.name: _repository_path(p)} for p in _experiments()]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds pages and pictures from outside docs/, and the generated pages."""
    for path in (ROOT / "experiments").rglob("*.*"):
        if path.suffix not in (".md", ".png"):
            continue
        _add(files, config, _repository_path(path), path)
    for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG"):
        _add(files, config, f"{name}.md", ROOT / f"{name}.md")
    _add(files, config, "index.md", ROOT / "README.md")
    for script in _examples():
        files.append(File.generated(config, f"examples/{script.stem}.md", content=_example(script)))
    for verb in VERBS:
        files.append(File.generated(config, f"reference/{verb}.md", content=_options(verb)))
    files.append(File.generated(config, "reference/python.md", content=_interface()))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links of the repository into links of the site, and links to other files into text."""
    source = _source(page.file)
    folder = Path(page.file.src_uri).parent

    def moved(match: re.Match) -> str:
        picture, words, target = match.groups()
        path, anchor = re.match(r"([^#]*)(#.*)?", target).groups()
        if "://" in target or not path:
            return match[0]
        found = _site_uri(Path(os.path.normpath(source.parent / path)))
        if files.get_file_from_path(found) is None:
            return words
        if words.endswith(".md"):
            words = _title(ROOT / os.path.normpath(source.parent / path))
        return f"{picture}[{words}]({os.path.relpath(found, folder)}{anchor or ''})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    link = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
    return "".join(part if part.startswith("```") else link.sub(moved, part) for part in parts)


def _source(file: File) -> Path:
    """Return the place of a page in the repository; of a generated page, its place in docs/."""
    return Path(file.abs_src_path) if file.abs_src_path else ROOT / "docs" / file.src_uri


def _title(page: Path) -> str:
    """Return the heading of a page, which names it better than its file does."""
    return page.read_text(encoding="utf-8").partition("# ")[2].partition("\n")[0]


def _site_uri(path: Path) -> str:
    """Return the site's name of a file of the repository."""
    if path.is_dir():
        path /= "README.md"
    if path == ROOT / "README.md":
        return "index.md"
    if path.suffix == ".py" and path.parent.name == "examples":
        path = path.with_suffix(".md")
    docs = ROOT / "docs"
    return path.relative_to(docs if path.is_relative_to(docs) else ROOT).as_posix()


def _add(files: Files, config: MkDocsConfig, uri: str, path: Path) -> None:
    files.append(File.generated(config, uri, abs_src_path=str(path)))


def _repository_path(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _experiments() -> list[Path]:
    return sorted((ROOT / "experiments").glob("*/README.md"))


def _examples() -> list[Path]:
    return sorted((ROOT / "examples").glob("*.py"))


def _example(script: Path) -> str:
    code = script.read_text(encoding="utf-8")
    about = ast.get_docstring(ast.parse(code)) or ""
    return f"# {script.stem}\n\n{about.splitlines()[0]}\n\n```python\n{code}```\n"


def _options(verb: str) -> str:
    """A page of a verb: what it does, its options, and every choice of every group."""
    module = import_module(
        f"ddiff.{verb}.__main__" if verb in ("data", "study") else f"ddiff.{verb}"
    )
    lines = [f"# ddiff {verb}", "", " ".join((module.main.__doc__ or module.__doc__ or "").split())]
    lines += ["", "```", f"python -m ddiff.{verb} key=value ...", "```", ""]
    lines += ["## Options", "", "```yaml", *options_of(verb), "```"]
    for group, default in groups_of(verb):
        lines += ["", f"## {group}=", "", f"The default is `{default}`."]
        for choice in choices_of(group):
            title = f"### {group}={choice.name} {{ #{group}-{choice.name} }}"
            lines += ["", title, "", choice.about]
            if choice.options:
                lines += ["", "```yaml", f"{group}:", *(f"  {o}" for o in choice.options), "```"]
    return "\n".join(lines) + "\n"


def _interface() -> str:
    """A page for mkdocstrings, which reads the docstrings."""
    lines = ["# The Python interface", "", "[ddiff in Python](../python.md) is the introduction."]
    for module, members in PYTHON.items():
        lines += ["", f"## {module}", "", f"::: {module}", "    options:"]
        lines += ["      show_root_heading: false", "      show_root_toc_entry: false"]
        lines += [f"      members: {members}"] if members else []
    return "\n".join(lines) + "\n"
