"""Volumes in files: each format is read and written by its field's library, imported when needed.

An array has the axes that its library shows: [x, y, z] of NIfTI in its closest canonical
orientation (right, anterior, superior), [z, y, x] of all others. An affine takes indices of the
array to millimetres (right, anterior, superior), as NIfTI's does. Whatever is wrong is one
DdiffError that names the file.
"""

import gzip
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ddiff.data.folders import ARRAYS, MESHES, PACKAGES
from ddiff.system.errors import DdiffError
from ddiff.system.files import regular, replacing
from ddiff.system.readers import read_array, read_header

WHAT = "the volume"
FLIP = np.diag([-1.0, -1.0, 1.0])  # left, posterior, superior of ITK, and right, anterior, superior
MARGIN = 1  # voxels around a mesh
MILLIMETRES = {  # of a unit; a unit that is not here is taken as one
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "\\u00b5m", "micrometer"), 1e-3),
    **dict.fromkeys(("nm", "nanometer"), 1e-6),
    **dict.fromkeys(("cm", "centimeter"), 10.0),
    **dict.fromkeys(("m", "meter"), 1e3),
    **dict.fromkeys(("inch", "in"), 25.4),
}
START = 4096  # bytes of a file that hold the words of its header


@dataclass(frozen=True)
class VolumeHeader:
    """Header of a volume: what is known before its numbers are read."""

    shape: tuple[int, ...]  # [D, H, W] or [C, D, H, W]
    dtype: np.dtype
    affine: np.ndarray | None = None  # [4, 4]; None: the file says neither spacing nor place

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Millimetres between voxels along each axis."""
        if self.affine is None:
            return None
        return tuple(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())


def volume_header(path: Path, sides: Sequence[int]) -> VolumeHeader:
    """Read the header of a volume. A mesh has the `sides` that it will be given."""
    ending = ending_of(path)
    if ending in ARRAYS:
        header = read_header(path, WHAT)
        return VolumeHeader(header.shape, header.dtype)
    with _explained(path):
        if ending in MESHES:
            return VolumeHeader(tuple(sides), np.dtype(np.uint8))
        header = HEADERS[PACKAGES[ending]](path)
        if len(header.shape) not in (3, 4):
            raise ValueError(f"its shape is {list(header.shape)}, and a volume has 3 axes or 4")
        if header.dtype.kind not in "buif":
            raise ValueError(f"it holds {header.dtype}, not numbers")
        return header


def read_numbers(path: Path, sides: Sequence[int]) -> np.ndarray:
    """Read the numbers of a volume, [D, H, W] or [C, D, H, W]; a mesh is filled into `sides`."""
    ending = ending_of(path)
    if ending in ARRAYS:
        return read_array(path, WHAT, mapped=False)
    with _explained(path):
        if ending in MESHES:
            return _mesh(path, sides)
        return READERS[PACKAGES[ending]](path)


def write_volume(path: Path, x: np.ndarray, affine: np.ndarray | None) -> None:
    """Write a volume [C, D, H, W], float32, in the format of the path's ending: the axes that
    reading would show. A single channel has no axis; `affine` None: voxels of 1 mm."""
    affine = np.eye(4) if affine is None else affine
    x = np.ascontiguousarray(x[0] if len(x) == 1 else x, np.float32)
    ending = ending_of(path)
    require(path, ending)
    if ending == ".npy":
        with replacing(path) as file:
            np.save(file, x)
    elif ending in (".nii", ".nii.gz"):
        import nibabel

        image = nibabel.Nifti1Image(np.moveaxis(x, 0, 3) if x.ndim == 4 else x, affine)
        image.header.set_xyzt_units("mm")
        content = image.to_bytes()
        with replacing(path) as file:
            file.write(gzip.compress(content, mtime=0) if ending == ".nii.gz" else content)
    elif ending == ".tif":
        import tifffile

        z, y, x_ = np.linalg.norm(affine[:3, :3], axis=0).tolist()
        about = {"spacing": z, "unit": "mm", "axes": "ZCYX" if x.ndim == 4 else "ZYX"}
        stack = np.moveaxis(x, 0, 1) if x.ndim == 4 else x
        with replacing(path) as file:
            tifffile.imwrite(file, stack, imagej=True, resolution=(1 / x_, 1 / y), metadata=about)
    else:
        _write_itk(path, x, affine)


def _write_itk(path: Path, x: np.ndarray, affine: np.ndarray) -> None:
    import SimpleITK as sitk

    vectors = x.ndim == 4
    image: Any = sitk.GetImageFromArray(np.moveaxis(x, 0, 3) if vectors else x, isVector=vectors)
    axes = FLIP @ affine[:3, :3][:, ::-1]
    spacing = np.linalg.norm(axes, axis=0)
    image.SetSpacing(spacing.tolist())
    try:
        image.SetDirection((axes / spacing).flatten().tolist())
    except RuntimeError as error:
        raise DdiffError(f"cannot write {path}: its axes are not at right angles") from error
    image.SetOrigin((FLIP @ affine[:3, 3]).tolist())
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(part))
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        raise DdiffError(f"cannot write {path}: {str(error).splitlines()[-1]}") from error
    finally:
        part.unlink(missing_ok=True)


def require(path: Path, ending: str) -> None:
    """Raise DdiffError if the package that reads and writes files of this ending is missing."""
    package = PACKAGES.get(ending)
    if package and find_spec(package) is None:
        raise DdiffError(
            f"{path}: {ending} files need {package}, which is not installed: "
            f"pip install 'ddiff[{EXTRAS[package]}]'"
        )


def ending_of(path: Path) -> str:
    """Return `.nii.gz` of a file of that ending, and else its suffix."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Context in which whatever a library raises becomes a line that names the file."""
    ending = ending_of(path)
    require(path, ending)
    if ending != ".zarr":
        regular(path)
    try:
        if ending != ".zarr" and path.stat().st_size == 0:
            raise ValueError("it is empty")
        yield
    except Exception as error:  # a stranger's file can make these libraries raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        words = lines[-1] if lines else type(error).__name__
        raise DdiffError(f"cannot read {WHAT} {path}: {words}") from error


def _refuse_short(path: Path, needed: int) -> None:
    lacking = needed - path.stat().st_size
    if lacking > 0:
        raise ValueError(f"it is cut short or damaged: at least {lacking:,} bytes are missing")


def _nifti(path: Path) -> tuple[Any, np.ndarray, VolumeHeader]:
    """Return an image of nibabel, how its axes turn to be canonical, and its header then."""
    import nibabel
    from nibabel.orientations import inv_ornt_aff, io_orientation

    image: Any = nibabel.load(path)  # pyright: ignore[reportPrivateImportUsage]
    shape, dtype = image.shape, image.get_data_dtype()
    while len(shape) > 4 and shape[3] == 1:  # vectors are the fifth axis, after time
        shape = (*shape[:3], *shape[4:])
    if path.suffix == ".nii":
        numbers = int(np.prod(image.shape)) * dtype.itemsize
        _refuse_short(path, image.dataobj.offset + numbers)
    if len(shape) < 3 or not np.isfinite(image.affine).all():
        return image, np.empty(0), VolumeHeader(shape, dtype)
    turn = io_orientation(image.affine)
    if np.isnan(turn).any():
        raise ValueError("its affine has no three axes")
    canonical = [0, 0, 0]
    for axis, (place, _) in enumerate(turn):
        canonical[int(place)] = shape[axis]
    if (image.dataobj.slope, image.dataobj.inter) not in ((1, 0), (None, None)):
        dtype = np.dtype(np.float32)
    affine = image.affine @ inv_ornt_aff(turn, shape[:3])
    affine[:3] *= MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    return image, turn, VolumeHeader((*shape[3:], *canonical), dtype, affine)


def _nifti_numbers(path: Path) -> np.ndarray:
    from nibabel.orientations import apply_orientation

    image, turn, header = _nifti(path)
    numbers = np.asarray(image.dataobj)
    if numbers.dtype == np.float64:
        numbers = numbers.astype(np.float32)
    numbers = numbers.reshape(*numbers.shape[:3], -1)
    numbers = np.moveaxis(apply_orientation(numbers, turn), 3, 0)
    return numbers.reshape(header.shape)


def _itk(path: Path) -> tuple[Any, VolumeHeader]:
    """Return a reader of SimpleITK that knows a file's header, and that header."""
    import SimpleITK as sitk

    reader: Any = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())  # "vector of 16-bit signed integer"
    bits = next((word for word in kind.split() if word.endswith("-bit")), "-bit")
    letter = "f" if "float" in kind else "u" if "unsigned" in kind else "i"
    if not bits[:-4] or "complex" in kind:
        raise ValueError(f"it holds {kind}, not numbers")
    dtype = np.dtype(f"{letter}{int(bits[:-4]) // 8}")
    sides, channels = reader.GetSize(), reader.GetNumberOfComponents()
    shape = (*((channels,) if channels > 1 else ()), *reversed(sides))
    with open(path, "rb") as file:
        start = file.read(START)
    packed = b"compresseddata = true" in start.lower() or (
        start.startswith(b"NRRD") and b"encoding: raw" not in start.lower()
    )
    numbers = _numbers_of(path, start)
    if not packed:
        _refuse_short(numbers, int(np.prod(shape)) * dtype.itemsize)
    if len(sides) != 3:
        return reader, VolumeHeader(tuple(reversed(sides)), dtype)
    affine = np.eye(4)
    axes = np.array(reader.GetDirection()).reshape(3, 3) * np.array(reader.GetSpacing())
    affine[:3, :3] = (FLIP @ axes)[:, ::-1]
    affine[:3, 3] = FLIP @ np.array(reader.GetOrigin())
    return reader, VolumeHeader(shape, dtype, affine)


def _numbers_of(path: Path, start: bytes) -> Path:
    """Return the file that holds the numbers of a header that begins with `start`: itself, or one
    beside it. Raises ValueError for any other, since a stranger's header may name any file."""
    said = re.search(rb"^(?:data ?file: *|ElementDataFile *= *)(.+?)\r?$", start, re.M | re.I)
    name = said[1].decode(errors="replace") if said else "LOCAL"
    if name.upper() == "LOCAL":
        return path
    beside = path.with_name(Path(name).name)
    if beside.name != name.removeprefix("./"):
        raise ValueError(f"it says that its numbers are in {name}, which does not lie beside it")
    if not beside.is_file():
        raise ValueError(f"its numbers should be in {name}, which is missing")
    return regular(beside)


def _itk_numbers(path: Path) -> np.ndarray:
    import SimpleITK as sitk

    reader, header = _itk(path)
    numbers = sitk.GetArrayFromImage(reader.Execute())
    return np.moveaxis(numbers, -1, 0) if len(header.shape) == 4 else numbers


@contextmanager
def _tiff(path: Path) -> Iterator[tuple[Any, int | None, VolumeHeader]]:
    """The stack in a file, its axis of channels, and its header."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters is raised below
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise ValueError(f"it holds {len(file.series)} stacks, and one file is one sample")
        series: Any = file.series[0]
        for page in series.pages:
            if page is not None:
                ends = zip(page.dataoffsets, page.databytecounts, strict=False)
                _refuse_short(path, max((a + b for a, b in ends), default=0))
        if series.dataoffset is not None:
            _refuse_short(path, series.dataoffset + series.nbytes)
        shape = list(series.shape)
        channels = next((i for i, axis in enumerate(series.axes) if axis in "CS"), None)
        channels = channels if len(shape) == 4 else None
        if channels is not None:
            shape.insert(0, shape.pop(channels))
        about, affine = file.imagej_metadata or {}, None
        tags = file.pages[0].tags  # pyright: ignore[reportAttributeAccessIssue]
        if "spacing" in about and "XResolution" in tags and "YResolution" in tags:
            x, y = (tags[f"{axis}Resolution"].value for axis in "XY")  # pixels a millimetre
            affine = np.diag([float(about["spacing"]), y[1] / y[0], x[1] / x[0], 1.0])
            affine[:3] *= MILLIMETRES.get(str(about.get("unit", "mm")).lower(), 1.0)
        yield series, channels, VolumeHeader(tuple(shape), series.dtype, affine)


def _tiff_header(path: Path) -> VolumeHeader:
    with _tiff(path) as (_, _, header):
        return header


def _tiff_numbers(path: Path) -> np.ndarray:
    with _tiff(path) as (series, channels, _):
        numbers = series.asarray()
        return numbers if channels is None else np.moveaxis(numbers, channels, 0)


def _zarr(path: Path) -> tuple[Any, np.ndarray | None]:
    """The only array of a folder, or the full resolution of several, and the affine that OME-Zarr
    says."""
    import zarr

    found: Any = zarr.open(path, mode="r")
    if not isinstance(found, zarr.Group):
        return found, None
    about: Any = found.attrs.asdict()
    scales = about.get("ome", about).get("multiscales")  # of OME-Zarr 0.5, and of 0.4
    if scales:
        try:
            first = scales[0]["datasets"][0]
            return found[first["path"]], _ome_affine(scales[0], first)
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"its multiscales are not those of OME-Zarr ({error!r})") from error
    arrays = dict(found.arrays())
    if len(arrays) != 1 and "0" not in arrays:
        raise ValueError(f"one array expected, found {', '.join(sorted(arrays)) or 'none'}")
    return (arrays["0"] if "0" in arrays else next(iter(arrays.values()))), None


def _ome_affine(about: dict[str, Any], first: dict[str, Any]) -> np.ndarray | None:
    """The affine of the last three axes, by the scales and shifts of the first data set and then of
    all; None if they have no scale."""
    units = [axis.get("unit", "millimeter") for axis in about["axes"][-3:]]
    affine, scaled = np.eye(4), False
    for step in (
        *first.get("coordinateTransformations", ()),
        *about.get("coordinateTransformations", ()),
    ):
        numbers = np.array(step.get(step["type"], [1, 1, 1])[-3:], float)
        if numbers.shape != (3,) or not np.isfinite(numbers).all():
            raise ValueError(f"its {step['type']} is {step.get(step['type'])}")
        if step["type"] == "scale":
            if not (numbers > 0).all():
                raise ValueError(f"its scale is {step['scale']}")
            affine[:3] *= numbers[:, None]
            scaled = True
        elif step["type"] == "translation":
            affine[:3, 3] += numbers
    affine[:3] *= np.array([MILLIMETRES.get(str(unit).lower(), 1.0) for unit in units])[:, None]
    return affine if scaled else None


def _alone(shape: Sequence[int]) -> int:
    """Number of axes of size 1 before [C, D, H, W], such as the one of times."""
    extra = max(0, len(shape) - 4)
    return extra if all(side == 1 for side in shape[:extra]) else 0


def _zarr_numbers(path: Path) -> np.ndarray:
    found, _ = _zarr(path)
    return np.asarray(found[(0,) * _alone(found.shape)])


def _mesh(path: Path, sides: Sequence[int]) -> np.ndarray:
    """The solid in a mesh as uint8 [D, H, W], 1 inside; x of the mesh is the last axis.

    The mesh is scaled so that it touches a margin of one voxel on its longest side, and lies in the
    middle. A voxel is inside if its centre is, by the winding number along the first axis.
    """
    import trimesh

    mesh: Any = trimesh.load(path, force="mesh")
    if not len(mesh.faces):
        raise ValueError("it holds no faces")
    if not np.isfinite(mesh.vertices).all():
        raise ValueError("it holds values that are not finite")
    if not mesh.is_watertight:
        raise ValueError("its surface is not closed, so that nothing is inside; repair it first")
    corners = np.asarray(mesh.vertices)[:, ::-1]
    low, high = corners.min(0), corners.max(0)
    room = np.array(sides) - 2 * MARGIN
    if (room < 1).any():
        raise ValueError(f"data.size={list(sides)} leaves no room for a mesh")
    scale = (room / np.maximum(high - low, 1e-12)).min()
    corners = (corners - (low + high) / 2) * scale + (np.array(sides) - 1) / 2
    return filled(corners[np.asarray(mesh.faces)], sides)


def filled(triangles: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """Fill a closed surface: uint8 [D, H, W], 1 where the centre of a voxel is inside.

    triangles: [F, 3, 3], corners in voxels. Every triangle that a column of voxels passes through
    changes the winding number of the voxels beyond it by one, up or down by the way it faces.
    """
    depth, height, width = sides
    flat = triangles[..., 1:]  # as the columns see them
    # columns pass edges and corners only by bad luck if they are moved a little
    nudge = np.array([1.7e-5, 2.9e-5])
    low = np.clip(np.ceil(flat.min(1) - nudge).astype(int), 0, [height, width])
    high = np.clip(np.floor(flat.max(1) - nudge).astype(int) + 1, 0, [height, width])
    winding = np.zeros((height * width, depth + 1), np.int32)
    (a, b, c), extent = np.moveaxis(flat, 1, 0), np.maximum(high - low, 0)
    number = extent.prod(1)  # of columns in the box around a triangle
    for some in np.array_split(np.arange(len(number)), 1 + int(number.sum()) // 10**6):
        face = np.repeat(some, number[some])
        place = np.arange(len(face)) - np.repeat(
            np.cumsum(number[some]) - number[some], number[some]
        )
        row = low[face, 0] + place // np.maximum(extent[face, 1], 1)
        column = low[face, 1] + place % np.maximum(extent[face, 1], 1)
        at = np.stack([row, column], 1) + nudge
        # twice the signed areas of the three parts: all of one sign where the column is inside
        parts = np.stack([_area(b[face], c[face], at), _area(c[face], a[face], at),
                          _area(a[face], b[face], at)], 1)  # fmt: skip
        whole = parts.sum(1)
        inside = ((parts > 0).all(1) | (parts < 0).all(1)) & (whole != 0)
        face, parts, whole = face[inside], parts[inside], whole[inside]
        passed = (parts / whole[:, None] * triangles[face, :, 0]).sum(1)
        first = np.clip(np.ceil(passed), 0, depth).astype(int)  # voxel beyond the triangle
        lines = row[inside] * width + column[inside]
        np.add.at(winding, (lines, first), np.sign(whole).astype(np.int32))
    solid = winding.cumsum(1)[:, :depth] != 0
    return solid.reshape(height, width, depth).transpose(2, 0, 1).astype(np.uint8)


def _area(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    u, v = q - p, r - p
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]


def _zarr_header(path: Path) -> VolumeHeader:
    found, affine = _zarr(path)
    return VolumeHeader(tuple(found.shape)[_alone(found.shape) :], np.dtype(found.dtype), affine)


EXTRAS = {"nibabel": "nifti", "tifffile": "tiff", "SimpleITK": "nrrd", "zarr": "zarr",
          "trimesh": "mesh"}  # fmt: skip
HEADERS: dict[str, Callable[[Path], VolumeHeader]] = {
    "nibabel": lambda path: _nifti(path)[2],
    "SimpleITK": lambda path: _itk(path)[1],
    "tifffile": _tiff_header,
    "zarr": _zarr_header,
}
READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "nibabel": _nifti_numbers,
    "SimpleITK": _itk_numbers,
    "tifffile": _tiff_numbers,
    "zarr": _zarr_numbers,
}
