"""Writes a data set to disk."""

from typing import TYPE_CHECKING

from ddiff.config.shell import entry

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry("data")
def main(cfg: "DictConfig") -> None:
    """Writes a data set to disk: .npy volumes or .png images, in class folders where labelled."""
    from ddiff.build import build
    from ddiff.config.options import Data, typed
    from ddiff.config.trees import resolved
    from ddiff.config.validation import validate
    from ddiff.data.writing import write

    cfg = resolved(cfg)
    validate(cfg, "data")
    options = typed(Data, cfg)
    num = write(build(options.data), options.out, options.num, options.split)
    print(f"{num} samples in {options.out}")


if __name__ == "__main__":
    main()
