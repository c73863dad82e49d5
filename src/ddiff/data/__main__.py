"""Writes a data set to disk, or looks at it."""

from pathlib import Path
from typing import TYPE_CHECKING

from ddiff.config.shell import entry

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry("data")
def main(cfg: "DictConfig") -> None:
    """Writes a data set to disk: .npy volumes or .png images, in class folders where labelled.
    With check=true it only looks: a table, and a picture of the first samples."""
    from ddiff.build import build
    from ddiff.config.options import Data, typed
    from ddiff.config.trees import resolved
    from ddiff.config.validation import validate
    from ddiff.data.writing import write
    from ddiff.system.errors import ConfigError

    cfg = resolved(cfg)
    validate(cfg, "data")
    options = typed(Data, cfg)
    if options.check:
        from ddiff.data.checking import check

        out = Path(options.out or "check.png")  # which is replaced, but no other file
        if options.out and out.exists():
            raise ConfigError(f"out: {out} exists already; give another name")
        check(build(options.data), out)
        return
    if options.out is None:
        raise ConfigError("required: out=... (a folder), or check=true to look only")
    num = write(build(options.data), options.out, options.num, options.split)
    print(f"{num} samples in {options.out}")


if __name__ == "__main__":
    main()
