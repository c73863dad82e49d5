"""Files that anyone may have written: each wrong one is a line that names it, and none hangs."""

import os
import socket
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddiff.data import Images, Voxels
from ddiff.data.opening import opened
from ddiff.diffusion.timesteps.topk import read_scores
from ddiff.metrics.features import Features
from ddiff.pages.view.reading import read
from ddiff.system.checkpoints import find_checkpoint, load_checkpoint
from ddiff.system.errors import DdiffError
from ddiff.system.readers import open_picture, read_array, read_header
from tests.support.runs import TINY, Done, checkpoint, ddiff_many, job

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)


def header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def zipped(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def array_file(path: Path, name: str) -> None:
    match name:
        case "empty file":
            path.touch()
        case "text":
            path.write_text("1 2 3")
        case "pickle":
            path.write_bytes(b"\x80\x04]\x94.")
        case "objects":
            np.save(path, np.array([{}], dtype=object), allow_pickle=True)
        case "words":
            np.save(path, np.array(["a", "b"]))
        case "bytes":
            np.save(path, np.array([b"a", b"b"]))
        case "structured":
            np.save(path, np.zeros(2, dtype=[("x", "f4"), ("y", "i4")]))
        case "complex":
            np.save(path, np.zeros((2, 2), np.complex64))
        case "dates":
            np.save(path, np.zeros(2, "datetime64[s]"))
        case "huge header":
            path.write_bytes(header((10**6, 10**6, 10**6)) + bytes(64))
        case "negative header":
            path.write_bytes(header((-8, 8, -8)) + bytes(512))
        case "header that overflows":
            path.write_bytes(header((2**40, 2**40)) + bytes(64))
        case "half a header":
            path.write_bytes(header((8, 8))[:40])
        case "cut short":
            path.write_bytes(header((8, 8)) + bytes(60))
        case "deep header":
            path.write_bytes(header((8, 8), "(" * 90))
        case "npz of text":
            zipped(path, **{"readme.txt": b"hello"})
        case "npz of pickles":
            zipped(path, **{"x.npy": b"\x80\x04]\x94."})
        case "npz of objects":
            np.savez(path.with_suffix(".npz"), x=np.array([{}], dtype=object))
            os.replace(path.with_suffix(".npz"), path)
        case "npz without arrays":
            zipped(path)
        case "npz of several":
            zipped(path, **{"a.npy": header((1,)) + b"1", "b.npy": header((1,)) + b"1"})
        case "npz whose header is huge":
            zipped(path, **{"x.npy": header((10**5, 10**5, 10**5)) + bytes(64)})
        case "half an npz":
            zipped(path, **{"x.npy": header((64, 64)) + os.urandom(4096)})
            path.write_bytes(path.read_bytes()[:2000])
        case "npz of damaged data":
            zipped(path, **{"x.npy": header((8, 8, 8)) + os.urandom(512)})
            content = bytearray(path.read_bytes())
            content[300:400] = bytes(100)
            path.write_bytes(content)
        case _:
            special(path, name)


def special(path: Path, name: str) -> None:
    match name:
        case "pipe":
            os.mkfifo(path)
        case "link to a pipe":
            os.mkfifo(path.with_name("pipe"))
            path.symlink_to(path.with_name("pipe"))
        case "socket":
            there = os.getcwd()
            os.chdir(path.parent)  # names of sockets are short
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
            os.chdir(there)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "dangling link":
            path.symlink_to(path.with_name("nowhere"))
        case _:
            raise AssertionError(name)


SPECIAL = {
    "pipe": "it is a pipe, not a file",
    "link to a pipe": "it is a pipe, not a file",
    "socket": "it is a socket, not a file",
    "device": "it is a device, not a file",
    "folder": "it is a folder, not a file",
    "dangling link": "No such file",
}
ARRAYS = {
    "empty file": "it is empty",
    "text": "no .npy or .npz file",
    "pickle": "no .npy or .npz file, and pickles are not loaded",
    "objects": "pickles are not loaded",
    "words": "holds <U1, not numbers",
    "bytes": r"holds \|S1, not numbers",
    "structured": "holds .*'x'.*, not numbers",
    "complex": "holds complex64, not numbers",
    "dates": "holds datetime64.*, not numbers",
    "huge header": r"announces \[1000000, 1000000, 1000000\].*bytes are missing",
    "negative header": "damaged",
    "header that overflows": "bytes are missing",
    "half a header": "",
    "cut short": "4 bytes are missing",
    "deep header": "",
    "npz of text": "magic string",
    "npz of pickles": "magic string",
    "npz of objects": "pickles are not loaded",
    "npz without arrays": "one array expected, found none",
    "npz of several": "one array expected, found a, b",
    "npz whose header is huge": "bytes are missing",
    "half an npz": "not a zip file",
    "npz of damaged data": "",
    **SPECIAL,
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_cannot_be_read_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    array_file(path, name)
    with pytest.raises(DdiffError, match=f"cannot read .*{path}: .*{ARRAYS[name]}") as caught:
        read_array(path, "the volume")
    assert "\n" not in str(caught.value)
    if name != "npz of damaged data":  # its header is good
        with pytest.raises(DdiffError, match=f"cannot read .*{path}: .*{ARRAYS[name]}"):
            read_header(path, "the volume")
    if name != "folder":  # in a data folder that is a folder more
        with pytest.raises(DdiffError, match=r"cannot read .*x\.npy"):
            Voxels(4, 0, str(tmp_path), size=8).setup("fit")


def test_arrays_and_links_to_them_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(GREY))
    np.savez_compressed(tmp_path / "b.npz", samples=GREY, y=[1])
    (tmp_path / "c.npy").symlink_to(tmp_path / "a.npy")
    (tmp_path / "d.npy").write_bytes((tmp_path / "b.npz").read_bytes())
    for name in ("a.npy", "b.npz", "c.npy", "d.npy"):
        assert np.array_equal(read_array(tmp_path / name, "the volume"), GREY)
        found = read_header(tmp_path / name, "the volume")
        assert (found.shape, found.dtype) == ((8, 8), np.dtype("u1"))


def bomb(path: Path, side: int) -> None:
    """A PNG of a few bytes whose header announces side x side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + end

    size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def picture_file(path: Path, name: str) -> None:
    frames = [Image.fromarray(GREY * (i + 1)) for i in range(3)]
    kind = name.removesuffix(" of three")
    match name:
        case "gif of three" | "webp of three" | "png of three" | "tiff of three":
            frames[0].save(path, kind, save_all=True, append_images=frames[1:])
        case "empty file":
            path.touch()
        case "text":
            path.write_text("no picture")
        case "half":
            noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
            Image.fromarray(noise).save(path)
            path.write_bytes(path.read_bytes()[:2000])
        case "bomb":
            bomb(path, 30_000)
        case _:
            special(path, name)


PICTURES = {
    **{f"{kind} of three": "it holds 3 pages or frames" for kind in ("gif", "webp", "png", "tiff")},
    "empty file": "unknown format",
    "text": "unknown format",
    "half": "truncated",
    "bomb": "exceeds limit",
    **SPECIAL,
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_cannot_be_read_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    picture_file(path, name)
    wanted = pytest.raises(DdiffError, match=f"cannot read .*{path}: .*{PICTURES[name]}")
    with wanted as caught, open_picture(path) as image:
        image.load()
    assert "\n" not in str(caught.value)
    if name != "folder":
        with pytest.raises(DdiffError, match=r"cannot read .*x\.png"):
            Images(4, 0, str(tmp_path), size=8).setup("fit")


def test_a_photograph_with_a_preview_is_one_picture(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=frames[1:])
    data = Images(1, 0, str(tmp_path), size=8, channels=1)
    data.setup("fit")
    (x, _), expected = next(iter(data.train_dataloader())), GREY / 127.5 - 1
    assert np.abs(x[0, 0].numpy() - expected).max() < 0.05


@pytest.mark.parametrize("ending", [".npy", ".npz", ".png", ".ckpt", ".json"])
def test_nothing_waits_for_a_pipe(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{ending}"
    os.mkfifo(path)
    readers = {
        ".npy": [read, opened],
        ".npz": [read, opened, Features.load],
        ".png": [read, opened],
        ".ckpt": [load_checkpoint, lambda p: find_checkpoint(str(p))],
        ".json": [lambda p: read_scores(str(p))],
    }
    for reader in readers[ending]:
        with pytest.raises(DdiffError, match=path.name):
            reader(path)


def test_a_description_of_classes_that_is_a_pipe_is_left_alone(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(GREY).save(tmp_path / name / "x.png")
    os.mkfifo(tmp_path / "dataset.json")
    assert Images(1, 0, str(tmp_path), size=8).class_names == ["cat", "dog"]


PHOTOS = ("data=images", "data.size=8", "budget.max_steps=60", "budget.save_every=1", *TINY)
COMMANDS = {  # name: (verb, options, words that the line must hold)
    "an animation": ("train", ("data.root=moving", *PHOTOS), "x.gif: it holds 3 pages"),
    "half a picture": ("train", ("data.root=half", *PHOTOS), "x.png: image file is truncated"),
    "a pipe of volumes": (
        "train",
        ("data=voxels", "data.root=piped", "data.size=8"),
        "x.npy: it is a pipe",
    ),
    "a mixture": (
        "train",
        ("data=voxels", "data.root=mixed", "data.size=8"),
        "mixed/b.npy has values from 0 to 1 (unit)",
    ),
    "pipes of samples": ("evaluate", ("samples=piped/x.npy", "data=digits"), "it is a pipe"),
    "pipes to view": ("view", ("path=piped/x.npy",), "it is a pipe"),
    "a pipe of scores": (
        "train",
        ("timesteps=precomputed_topk", "timesteps.path=piped/x.npy", "data.size=16", "data.num=8"),
        "is not a file",
    ),
    "bytes of samples": ("evaluate", ("samples=bytes.npz", "data=digits"), "magic string"),
    "no number of samples": ("evaluate", ("samples=scalar", "reference=scalar"), "has shape ()"),
    "nothing to view": ("view", ("path=bytes.npz",), "magic string"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    cwd = tmp_path_factory.mktemp("readers")
    for name in ("moving", "half", "piped", "mixed", "scalar", "late"):
        (cwd / name).mkdir()
    picture_file(cwd / "moving/x.gif", "gif of three")
    picture_file(cwd / "half/x.png", "half")
    os.mkfifo(cwd / "piped/x.npy")
    np.save(cwd / "mixed/a.npy", np.arange(512, dtype=np.uint8).reshape(8, 8, 8))
    np.save(cwd / "mixed/b.npy", np.ones((8, 8, 8), np.uint8) * (np.arange(8) % 2))
    np.save(cwd / "scalar/x.npy", np.float32(1))
    zipped(cwd / "bytes.npz", **{"x.txt": b"hello"})
    for i in range(200):
        Image.fromarray(np.roll(GREY, i)).save(cwd / f"late/{i}.png")
    os.truncate(cwd / "late/0.png", 2 * 10**8)  # so large a set is not read before training
    picture_file(cwd / "late/x.png", "half")
    jobs = [job(verb, *options) for verb, options, _ in COMMANDS.values()]
    jobs.append(job("train", "data.root=late", "run_dir=run", *PHOTOS))
    return cwd, dict(zip([*COMMANDS, "late"], ddiff_many(jobs, cwd), strict=True))


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_say_it_before_they_write(name: str, world: tuple[Path, dict[str, Done]]) -> None:
    cwd, done = world
    assert COMMANDS[name][2] in done[name].err
    assert (len(done[name].err.splitlines()), done[name].status) == (1, 1)
    assert not (cwd / "runs").exists()


def test_a_picture_that_breaks_late_leaves_a_whole_run(
    world: tuple[Path, dict[str, Done]],
) -> None:
    cwd, done = world
    assert "late/x.png: image file is truncated" in done["late"].err
    assert (len(done["late"].err.splitlines()), done["late"].status) == (1, 1)
    assert 0 < checkpoint(cwd / "run")["global_step"] < 60
