"""One self-contained HTML page of samples: nothing is fetched, it opens from a disk or a mail."""

import base64
import html
import io
import json
import zlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddiff.pages.view.meshes import halved, isosurface, limited, smooth_normals
from ddiff.pages.view.pictures import shade_rgba, shadow, to_pixels
from ddiff.pages.view.rays import AZIMUTH, ELEVATION, PAD, Scene
from ddiff.pages.view.reading import as_images, as_volumes, kind_of
from ddiff.system.errors import DdiffError
from ddiff.system.files import replacing

SIDE = 96  # voxels: the longest side that is embedded
FACES = 200_000  # triangles of one volume that are embedded
THUMBNAIL = 160  # pixels
SCRIPTS = {"images": ["images.js"], "volumes": ["stage.js", "volumes.js"]}
Item = dict[str, Any]


def write_page(
    samples: Any,
    path: str | Path,
    title: str,
    captions: Sequence[str] | None = None,
    azimuth: float = AZIMUTH,
    elevation: float = ELEVATION,
) -> Path:
    """Images [N, C, H, W] as a grid to enlarge, volumes [N, 1, D, H, W] to turn and slice.

    Volumes beyond 96 voxels a side or 200,000 triangles are halved, and the page says so.
    """
    kind = kind_of(np.shape(samples))
    array = as_images(samples) if kind == "images" else as_volumes(samples)
    names = [f"#{i}" for i in range(len(array))] if captions is None else list(captions)
    if len(names) != len(array):
        raise DdiffError(f"{len(names)} captions for {len(array)} samples")
    view = {"azimuth": azimuth, "elevation": elevation}
    if kind == "images":
        size = list(array.shape[2:])
        items = [{"picture": png_uri(pixels), "size": size} for pixels in to_pixels(array)]
    else:
        items = [
            {
                "picture": png_uri(shade_rgba(volume, THUMBNAIL, **view)),
                "size": list(volume.shape),
                "filled": float((volume > 0).mean()),
                "range": [float(volume.min()), float(volume.max())],
                **solid_item(volume, SIDE, FACES),
            }
            for volume in array
        ]
    items = [{**item, "caption": str(name)} for item, name in zip(items, names, strict=True)]
    data = {"kind": kind, "view": view, "items": items}
    text = filled(title, kind, data, asset("page.css"), asset(*SCRIPTS[kind]))
    with replacing(Path(path), "w") as file:
        file.write(text)
    return Path(path)


def filled(title: str, kind: str, data: Item, style: str, script: str) -> str:
    """The template, its placeholders replaced in one pass: values are never searched again."""
    head, *rest = asset("page.html").split("{{")
    values = {
        "title": html.escape(title),
        "kind": kind,
        "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        "style": style,
        "base": asset("base.js"),
        "script": script,
    }
    parts = (part.partition("}}") for part in rest)
    return head + "".join(values[name] + after for name, _, after in parts)


def asset(*names: str) -> str:
    """The text of files beside this one, one after the other."""
    folder = files("ddiff.pages.view")
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def solid_item(volume: np.ndarray, side: int, most: int, slices: bool = True) -> Item:
    """A solid for stage.js. Halved until it has at most `side` voxels a side and `most` triangles;
    without `slices` a voxel is but solid or not.

    The blob is little-endian and made of differences, which deflate well: voxels uint8 [D, H, W],
    vertices int16 [V, 3] in units of (longest side + 2) / 65534 voxels from the centre, normals
    with sky int8 [V, 4], faces uint16 or uint32 [F, 3], shadow uint8 [H, W].
    """
    coarse = limited(volume, side)
    vertices, faces = isosurface(coarse)
    while len(faces) > most:
        coarse = halved(coarse)
        vertices, faces = isosurface(coarse)
    scene = Scene.of(coarse)
    normals, sky = smooth_normals(scene, vertices)
    values = np.clip(coarse, -1, 1) if slices else np.where(coarse > 0, 1, -1)
    middle = (np.array(coarse.shape[::-1], np.float32) - 1) / 2
    half = (max(coarse.shape) + 2) / 2
    parts = (
        np.rint((values + 1) * 127.5).astype(np.uint8).ravel(),
        np.rint((vertices - middle) / half * 32767).astype("<i2"),
        np.rint(np.column_stack([normals, sky]) * 127).astype(np.int8),
        faces.astype("<u2" if len(vertices) <= 65536 else "<u4"),
        (255 * shadow(scene)[2 * PAD : -2 * PAD, 2 * PAD : -2 * PAD]).astype(np.uint8).ravel(),
    )
    differences = (np.diff(part, axis=0, prepend=0 * part[:1]) for part in parts)
    blob = zlib.compress(b"".join(part.tobytes() for part in differences), 9)
    return {
        "shown": list(coarse.shape),
        "vertices": len(vertices),
        "faces": len(faces),
        "blob": base64.b64encode(blob).decode(),
    }


def png_uri(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
