"""Compares runs: tables, pictures, and one page to explore them."""

from omegaconf import DictConfig

from ddiff.config.options import Report, typed
from ddiff.config.shell import entry


@entry("report")
def main(cfg: DictConfig) -> None:
    """Compares runs: what differs, curves, figures, samples, the Pareto front of quality and
    cost."""
    options = typed(Report, cfg)

    from pathlib import Path

    from ddiff.pages import destination
    from ddiff.pages.report.comparison import compare
    from ddiff.pages.report.page import found_samples, write_report
    from ddiff.pages.report.plots import draw
    from ddiff.pages.report.text import CAPTIONS, markdown, print_tables
    from ddiff.study.folder import MARK
    from ddiff.study.report import named, preface, show
    from ddiff.study.results import read
    from ddiff.system.console import console
    from ddiff.system.files import check_outputs, replacing

    places = [options.runs] if isinstance(options.runs, str) else options.runs
    out = destination(options.out, "report", (".md", ".html"))
    page, text = (out.with_name(out.name + ending) for ending in (".html", ".md"))
    folder = out.with_name(f"{out.name}_files")
    pictured = [folder / name for name in CAPTIONS]
    check_outputs([page, text, *pictured], options.overwrite)
    studies = {place: read(Path(place)) for place in places if (Path(place) / MARK).is_file()}
    inside = [studies[place].runs if place in studies else [place] for place in places]
    title = None if options.title is None else str(options.title)
    comparison = compare([run for runs in inside for run in runs], title)
    comparison = comparison.led_by(*map(preface, studies.values()))
    for study in studies.values():
        comparison = named(comparison, study.folder)
        show(study)
    samples = found_samples(comparison, options.num)
    for path in pictured:  # of the report that is replaced: this one may have fewer
        path.unlink(missing_ok=True)
    pictures = draw(comparison, samples, folder)
    write_report(comparison, samples, page)
    with replacing(text, "w") as file:
        file.write(markdown(comparison, pictures, page.name))
    print_tables(comparison)
    for name, path in (("page", page), ("text", text), ("pictures", folder)):
        console.print(f"{name:<12}{path}")


if __name__ == "__main__":
    main()
