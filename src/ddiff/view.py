"""Shows voxels or images: a still picture and an interactive page."""

from omegaconf import DictConfig

from ddiff.config.options import View, typed
from ddiff.config.shell import entry


@entry("view")
def main(cfg: DictConfig) -> None:
    """Shows voxels or images: a still picture and an interactive page."""
    from ddiff.pages import destination
    from ddiff.pages.view.page import write_page
    from ddiff.pages.view.pictures import image_grid, save_png, volume_grid
    from ddiff.pages.view.reading import read
    from ddiff.system.files import check_outputs

    options = typed(View, cfg)
    found = read(options.path, options.num, options.value_range, options.key)
    source = found.source.resolve()
    # never the name of the picture that training wrote itself
    name = f"{source.stem if source.is_file() else source.name}_view"
    target = source.parent / name
    if options.out is not None:
        target = destination(options.out, name, (".png", ".html"))
    picture, page = (target.with_name(target.name + ending) for ending in (".png", ".html"))
    check_outputs([picture, page] if options.page else [picture], options.overwrite)
    angles = {"azimuth": options.azimuth, "elevation": options.elevation}
    if found.kind == "images":
        still = image_grid(found.samples, options.columns)
    else:
        still = volume_grid(found.samples, options.columns, options.size, **angles)
    print(save_png(still, picture))
    if options.page:
        print(write_page(found.samples, page, found.title, found.captions, **angles))


if __name__ == "__main__":
    main()
