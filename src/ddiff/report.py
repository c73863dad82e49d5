"""`python -m ddiff.report runs=...`: tables and pictures of runs, and one page to explore them."""

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from ddiff.cli import entry


@entry("report")
def main(cfg: DictConfig) -> None:
    """Compares runs: what differs, curves, figures, samples, the Pareto front of quality and
    cost."""
    places, out = checked(cfg)

    from ddiff.console import console
    from ddiff.files import check_outputs, replacing
    from ddiff.reporting.comparison import compare
    from ddiff.reporting.markdown import CAPTIONS, markdown
    from ddiff.reporting.page import write_report
    from ddiff.reporting.plots import draw
    from ddiff.reporting.showing import draw_samples, found_samples
    from ddiff.reporting.terminal import print_table

    page, text = (out.with_name(out.name + ending) for ending in (".html", ".md"))
    folder = out.with_name(f"{out.name}_files")
    pictured = [folder / name for name in CAPTIONS]
    check_outputs([page, text, *pictured], cfg.overwrite)
    comparison = compare(places, cfg.title)
    samples = found_samples(comparison, cfg.num, comparison.troubles)
    for path in pictured:  # of the report that is replaced: this one may have fewer
        path.unlink(missing_ok=True)
    pictures = draw(comparison, folder)
    strips = draw_samples(comparison, samples, folder / "samples.png")
    pictures += [strips] if strips else []
    write_report(comparison, samples, page)
    with replacing(text, "w") as file:
        file.write(markdown(comparison, pictures, page.name))
    print_table(comparison)
    for name, path in (("page", page), ("text", text), ("pictures", folder)):
        console.print(f"{name:<12}{path}")


def checked(cfg: DictConfig) -> tuple[list[str], Path]:
    """The places to look for runs, and the name to write under."""
    places = cfg.runs
    places = list(places) if isinstance(places, ListConfig) else [places]
    out = Path(cfg.out)
    if out.is_dir() or cfg.out.endswith("/"):
        return places, out / "report"
    return places, out.with_suffix("") if out.suffix in (".md", ".html") else out


if __name__ == "__main__":
    main()
