"""A folder of files as a data set: its files, its classes, its validation part.

This module does not import torch, so that a recipe can be chosen by what a folder holds before
anything heavy is imported.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ddiff.data.tables import classes_by, ordered
from ddiff.system.archives import members, opened
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import regular

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
ARRAYS = (".npy", ".npz")
NIFTI = (".nii", ".nii.gz")
SCANS = (*NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd", ".zarr")
STACKS = (".tif", ".tiff")
MESHES = (".stl", ".ply", ".obj")
# Of a folder of volumes, the files of the first family that is there are the data set: samples lie
# beside their meshes, and scans beside pictures of them.
FAMILIES = (ARRAYS, SCANS, STACKS, MESHES)
VOLUMES = tuple(ending for family in FAMILIES for ending in family)
PACKAGES = {  # ending -> the package that reads it
    ".nii": "nibabel",
    ".nii.gz": "nibabel",
    **dict.fromkeys((".nrrd", ".nhdr", ".mha", ".mhd"), "SimpleITK"),
    ".zarr": "zarr",
    **dict.fromkeys(STACKS, "tifffile"),
    **dict.fromkeys(MESHES, "trimesh"),
}
LONGEST = 1000  # bytes of the name of a class


@dataclass(frozen=True)
class Listing:
    """Files of a folder, and their classes."""

    root: Path
    files: list[str]  # relative to root, with forward slashes, sorted
    class_names: list[str] | None  # None: not labelled
    classes: Mapping[str, str] | None = None  # of the files, by a table; None: their first folders

    def label(self, file: str) -> int:
        assert self.class_names is not None
        name = self.classes[file] if self.classes else file.split("/")[0]
        return self.class_names.index(name)

    def split(self, val_fraction: float) -> tuple[list[str], list[str]]:
        """Split the files into (train, val) by a hash of each name.

        Adding files thus moves none. If one of them would be empty, it gets one file; a single file
        is in both.
        """
        from ddiff.system.random import key

        rank = {file: key("val", file) / 2**63 for file in self.files}
        val = [file for file in self.files if rank[file] < val_fraction]
        val = val or [min(self.files, key=rank.__getitem__)]
        held = set(val)
        train = [file for file in self.files if file not in held]
        return train or [max(self.files, key=rank.__getitem__)], val


def listing(root: Path, suffixes: tuple[str, ...], labels: bool | str | None) -> Listing:
    """List all files below root with one of these suffixes; hidden ones are left out.

    Of VOLUMES, those of the first of FAMILIES that is there. A folder `x.zarr` counts as a file.
    Pictures lie in .tar archives too, whose members' class is the text of the member `x.cls`.

    labels: True if the first folder below root is the class. None: True if every file is in a
        folder and there are at least two folders. A text names a table: see `tables.classes_by`.

    The order of the classes is that of `dataset.json` (written by `python -m ddiff.data`) if there
    is one, else alphabetical.

    Raises DdiffError if there is nothing to read, ConfigError if labels are wanted and a file is in
    no folder.
    """
    if not root.is_dir():
        raise DdiffError(f"the data folder {root} does not exist")
    files = sorted(_walk(root, suffixes))
    if suffixes == VOLUMES:
        families = ([f for f in files if f.lower().endswith(family)] for family in FAMILIES)
        files = next((family for family in families if family), [])
    if not files:
        raise DdiffError(f"no {', '.join(suffixes)} files in {root}")
    if isinstance(labels, str):
        classes = classes_by(labels, root, files)
        return Listing(root, files, ordered(set(classes.values())), classes)
    if labels is not False and (told := _told(root, files)):
        return Listing(root, files, ordered(set(told.values())), told)
    places = [(file, _outside(file)) for file in files]
    loose = next((file for file, place in places if "/" not in place), None)
    folders = sorted({place.split("/")[0] for _, place in places if "/" in place})
    if labels and loose:
        raise ConfigError(f"data: labels is true, but {root / loose} is in no class folder")
    if labels is None:
        labels = loose is None and len(folders) > 1
    return Listing(root, files, _class_order(root, folders) if labels else None)


def _walk(root: Path, suffixes: tuple[str, ...]) -> list[str]:
    found = []
    above = {str(root): {os.path.realpath(root)}}  # real path of a folder and of all above it
    for folder, folders, names in os.walk(root, followlinks=True):
        if ".zarr" in suffixes:
            names = [*names, *(n for n in folders if n.lower().endswith(".zarr"))]
        places = {
            n: os.path.realpath(os.path.join(folder, n))
            for n in folders
            if n[0] != "." and n not in names
        }
        folders[:] = [name for name, place in places.items() if place not in above[folder]]
        for name in folders:  # a link to a folder above would be followed without end
            above[os.path.join(folder, name)] = above[folder] | {places[name]}
        wanted = [n for n in names if n.lower().endswith(suffixes) and not n.startswith(".")]
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in wanted]
        if suffixes == PICTURES:
            found += _archived(root, Path(folder), names)
    return found


def _archived(root: Path, folder: Path, names: list[str]) -> list[str]:
    """Return the pictures in the archives of a folder, as paths that lead into them."""
    archives = [folder / name for name in names if name.endswith(".tar") and name[0] != "."]
    return [
        f"{archive.relative_to(root).as_posix()}/{member}"
        for archive in archives
        for member in members(archive)
        if member.lower().endswith(PICTURES) and not PurePosixPath(member).name.startswith(".")
    ]


def _outside(file: str) -> str:
    """Return the part of a path that leads to its archive, or all of it."""
    return file.partition(".tar/")[0]


def _told(root: Path, files: list[str]) -> dict[str, str]:
    """Return the class of every file by the member `x.cls` beside `x.jpg` in its archive.

    {} if no archive tells classes. Raises DdiffError if some pictures lack one.
    """
    told = {}
    for file in files:
        archive, inside, member = file.partition(".tar/")
        label = PurePosixPath(member).with_suffix(".cls").as_posix() if inside else ""
        if inside and label in members(root / f"{archive}.tar"):
            with opened(root / f"{archive}.tar" / label) as text:
                told[file] = text.read(LONGEST).decode("utf-8", "replace").strip()
    lacking = [file for file in files if file not in told]
    if told and lacking:
        raise DdiffError(
            f"{len(lacking)} of {len(files)} pictures in {root} have no class beside them, such as "
            f"{lacking[0]}; data.labels=false leaves classes out"
        )
    return told


def _class_order(root: Path, folders: list[str]) -> list[str]:
    try:
        names = json.loads(regular(root / "dataset.json").read_text())["class_names"]
    except (OSError, DdiffError, ValueError, KeyError, TypeError):
        return folders
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if known and set(folders) <= set(names) else folders
