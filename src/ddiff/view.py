"""Shows voxels or images: a still picture and an interactive page."""

from pathlib import Path

from omegaconf import DictConfig

from ddiff.config.options import View, typed
from ddiff.config.shell import entry


@entry("view")
def main(cfg: DictConfig) -> None:
    """Shows voxels or images: a still picture and an interactive page."""
    from ddiff.pages.view.page import write_page
    from ddiff.pages.view.pictures import image_grid, save_png, volume_grid
    from ddiff.pages.view.reading import read
    from ddiff.system.files import check_outputs

    options = typed(View, cfg)
    found = read(options.path, options.num, options.value_range, options.key)
    target = _target(found.source, options.out)
    endings = (".png", ".html") if options.page else (".png",)
    check_outputs([target.with_name(target.name + ending) for ending in endings], options.overwrite)
    angles = {"azimuth": options.azimuth, "elevation": options.elevation}
    if found.kind == "images":
        still = image_grid(found.samples, options.columns)
    else:
        still = volume_grid(found.samples, options.columns, options.size, **angles)
    print(save_png(still, target.with_name(target.name + ".png")))
    if options.page:
        path = target.with_name(target.name + ".html")
        print(write_page(found.samples, path, found.title, found.captions, **angles))


def _target(source: Path, out: str | None) -> Path:
    """The path to write to, without its ending; never the picture that training wrote itself."""
    name = f"{source.resolve().stem if source.is_file() else source.resolve().name}_view"
    if out is None:
        return source.resolve().parent / name
    path = Path(out)
    if path.is_dir() or str(out).endswith("/"):
        return path / name
    return path.with_suffix("") if path.suffix in (".png", ".html") else path


if __name__ == "__main__":
    main()
