"""Samples of every run: a picture of all, and what the page carries of each."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddiff.pages.report.comparison import Comparison
from ddiff.pages.report.records import Record
from ddiff.pages.view.page import png_uri, solid_item
from ddiff.pages.view.pictures import (
    BACKGROUND,
    image_grid,
    save_png,
    tiled,
    to_pixels,
    volume_grid,
)
from ddiff.pages.view.reading import Found, read
from ddiff.system.errors import DdiffError

VOLUMES = 4  # of a run
SIDE, FACES = 64, 16_000  # of a volume on the page: voxels a side, triangles
INK, LINE, GAP = (27, 36, 48), 26, 6  # of a label: colour, height, distance in pixels


def found_samples(comparison: Comparison, num: int, troubles: list[str]) -> list[Found | None]:
    """Of each run, its newest samples, spread evenly over the file; broken ones are a line."""
    return [_found(run, num, troubles) for run in comparison.runs]


def _found(run: Record, num: int, troubles: list[str]) -> Found | None:
    if not list((run.path / "samples").glob("*.npy")):
        return None
    try:
        found = read(run.path, num, spread=True)
        if found.kind == "volumes" and num > VOLUMES:
            found = read(run.path, VOLUMES, spread=True)
    except DdiffError as error:
        troubles.append(f"samples left out: {error}")
        return None
    return found


def draw_samples(comparison: Comparison, found: list[Found | None], path: Path) -> Path | None:
    """A strip of samples for each group, its first run that has some."""
    strips, at = [], 0
    for group in comparison.groups:
        of_group = [one for one in found[at : at + len(group.runs)] if one is not None]
        at += len(group.runs)
        if of_group:
            strips.append(_labelled(_strip(of_group[0]), group.label))
    if not strips:
        return None
    width = max(strip.shape[1] for strip in strips)
    fill = {"mode": "constant", "constant_values": BACKGROUND}
    wide = [np.pad(s, ((0, GAP), (0, width - s.shape[1]), (0, 0)), **fill) for s in strips]
    return save_png(np.concatenate(wide), path)


def _strip(found: Found) -> np.ndarray:
    if found.kind == "volumes":
        return volume_grid(found.samples, len(found.samples))
    return image_grid(found.samples, len(found.samples))


def _labelled(strip: np.ndarray, label: str) -> np.ndarray:
    font = ImageFont.load_default(14)
    width = max(strip.shape[1], int(font.getlength(label)) + 2 * GAP)
    image = Image.new("RGB", (width, strip.shape[0] + LINE), (BACKGROUND,) * 3)
    image.paste(Image.fromarray(strip), (0, LINE))
    ImageDraw.Draw(image).text((GAP, LINE // 2), label, fill=INK, font=font, anchor="lm")
    return np.asarray(image)


def page_samples(found: Found | None) -> dict[str, Any] | None:
    """Images as one grid, pixel for pixel; volumes as solids to turn."""
    if found is None:
        return None
    number = len(found.samples)
    facts = {"kind": found.kind, "file": found.source.name, "shown": f"{number} of {found.total}"}
    if found.kind == "images":
        pixels = to_pixels(found.samples)
        drawn = tiled(np.zeros_like(pixels), padding=1)[..., :1] == 0  # between them: nothing
        grid = np.dstack([tiled(pixels, padding=1), 255 * drawn.astype(np.uint8)])
        return {**facts, "picture": png_uri(grid), "width": grid.shape[1]}
    solids = [solid_item(volume, SIDE, FACES, slices=False) for volume in found.samples]
    return {**facts, "solids": solids}
