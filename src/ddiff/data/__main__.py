"""Writes a data set to disk."""

from typing import TYPE_CHECKING

from ddiff.config.shell import entry

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry("data")
def main(cfg: "DictConfig") -> None:
    """Writes a data set to disk: .npy volumes or .png images, in class folders where labelled."""
    from ddiff.build import build
    from ddiff.config.trees import resolved
    from ddiff.config.validation import validate
    from ddiff.data.writing import write

    cfg = resolved(cfg)
    validate(cfg, "data")
    num = write(build(cfg.data), cfg.out, cfg.num, cfg.split)
    print(f"{num} samples in {cfg.out}")


if __name__ == "__main__":
    main()
