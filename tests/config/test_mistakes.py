"""What people get wrong with runs and files: one clear line, nothing lost or littered.

Wrong options are in test_bad_inputs.py.
"""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from ddiff.config.shell import explain
from tests.support.runs import TINY, Done, checkpoint, ddiff_many, job

DIGITS = ("experiment=digits_cfg", *TINY, "budget.max_steps=2")
PLAIN = ("experiment=digits_ddpm", *TINY, "budget.max_steps=2")

# name: (verb, options, exit status, words that the line must hold)
MISTAKES = {
    "a GPU that is not there": ("train", ["trainer=gpu"], 2, ["accelerator", "trainer=cpu"]),
    "an engine that is not there": (
        "sample",
        ["run=digits", "backend=tensorrt"],
        1,
        ["torch-tensorrt", "torch-tensorrt-rtx", "not installed"],
    ),
    "training in an engine": ("train", [*DIGITS, "backend=tensorrt"], 1, ["cannot train"]),
    "a CUDA graph without a GPU": (
        "sample",
        ["run=digits", "backend=eager", "backend.graph=true"],
        2,
        ["backend.graph", "needs a GPU"],
    ),
    "truncated checkpoint": ("sample", ["run=cut.ckpt"], 1, ["cut.ckpt", "truncated"]),
    "malicious checkpoint": ("sample", ["run=evil.ckpt"], 1, ["refused", "evil.ckpt"]),
    "foreign checkpoint": ("sample", ["run=other.ckpt"], 1, ["not a ddiff checkpoint"]),
    "checkpoint with a foreign target": (
        "sample",
        ["run=target.ckpt"],
        2,
        ["os.system", "not allowed"],
    ),
    "labels of an unlabelled run": ("sample", ["run=plain", "y=3"], 2, ["without labels"]),
    "label out of range": ("sample", ["run=digits", "y=10"], 2, ["10", "0..9"]),
    "wrong label in a list": ("sample", ["run=digits", "y=[1,12]"], 2, ["0..9"]),
    "no samples": ("sample", ["run=digits", "num_samples=0"], 2, ["num_samples"]),
    "negative guidance": ("sample", ["run=digits", "guidance.scale=-1"], 2, ["guidance.scale"]),
    "guidance of a recipe without labels": (
        "train",
        [*PLAIN, "guidance=cfg", "run_dir=guided"],
        2,
        ["guidance.scale: 2 ", "this net has none", "guidance=none"],
    ),
    "guided pictures without labels": (
        "train",
        [*DIGITS, "sampling.y=none", "run_dir=guided"],
        2,
        ["guidance.scale", "y=none", "guidance=none"],
    ),
    "guidance of a run without labels": (
        "sample",
        ["run=plain", "guidance=cfg"],
        2,
        ["guidance.scale", "this net has none", "guidance=none"],
    ),
    "guidance towards no label": (
        "sample",
        ["run=digits", "guidance.scale=2", "y=none"],
        2,
        ["guidance.scale", "y=none", "guidance=none"],
    ),
    "guidance measured without labels": (
        "evaluate",
        ["run=plain", "guidance=cfg"],
        2,
        ["guidance.scale", "this net has none"],
    ),
    "guidance exported without labels": (
        "export",
        ["run=plain", "guidance=cfg", "format=pt2"],
        2,
        ["guidance.scale", "this net has none"],
    ),
    "guidance timed without labels": (
        "benchmark",
        ["run=plain", "guidance=cfg"],
        2,
        ["guidance.scale", "this net has none"],
    ),
    "guidance of a timed recipe without labels": (
        "benchmark",
        ["experiment=digits_ddpm", "guidance=cfg"],
        2,
        ["guidance.scale", "this net has none"],
    ),
    "wrong weights": ("sample", ["run=digits", "weights=best"], 2, ["ema", "net"]),
    "importance of an artifact": ("importance", ["run=model.onnx"], 1, ["model.onnx", "artifact"]),
    "aliases without end": ("sample", ["run=bomb.ckpt"], 2, ["more than 100000 values"]),
    "unwritable place": ("sample", ["run=digits", "out=/proc/x"], 1, ["/proc/x"]),
    "volume of another size": (
        "train",
        ["experiment=digits_ddpm", "data=voxels", "data.root=volumes", "data.size=16"],
        1,
        ["vox_0001.npy", "16", "8"],
    ),
    "importance of a run with a net": ("importance", ["run=plain", "net=unet"], 2, ["net="]),
    "a folder that is not empty": (
        "data",
        ["data=digits", "out=volumes"],
        1,
        ["volumes", "empty"],
    ),
}


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("pwned"),))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    """A directory with two runs and some bad files, and what every mistake answered in it."""
    cwd = tmp_path_factory.mktemp("world")
    runs = [job("train", *DIGITS, "run_dir=digits"), job("train", *PLAIN, "run_dir=plain")]
    assert [d.err for d in ddiff_many(runs, cwd)] == ["", ""]
    good = (cwd / "digits/checkpoints/last.ckpt").read_bytes()
    (cwd / "cut.ckpt").write_bytes(good[: len(good) // 2])
    (cwd / "evil.ckpt").write_bytes(pickle.dumps(Evil()))
    torch.save({"state_dict": {}}, cwd / "other.ckpt")
    foreign = checkpoint(cwd / "digits")
    foreign["ddiff"]["config"]["net"]["_target_"] = "os.system"
    torch.save(foreign, cwd / "target.ckpt")
    bomb = checkpoint(cwd / "digits")
    many: list = [0, 1]
    for _ in range(40):
        many = [many, many]
    bomb["ddiff"]["config"]["budget"]["many"] = many
    torch.save(bomb, cwd / "bomb.ckpt")
    (cwd / "model.onnx").write_bytes(b"not much")
    (cwd / "volumes").mkdir()
    np.save(cwd / "volumes/vox_0000.npy", np.zeros((16, 16, 16), np.uint8))
    np.save(cwd / "volumes/vox_0001.npy", np.zeros((8, 8, 8), np.uint8))
    jobs = [job(verb, *options) for verb, options, *_ in MISTAKES.values()]
    return cwd, dict(zip(MISTAKES, ddiff_many(jobs, cwd), strict=True))


@pytest.mark.parametrize("name", MISTAKES)
def test_one_line_says_it(name: str, world: tuple[Path, dict[str, Done]]) -> None:
    _, _, status, words = MISTAKES[name]
    done = world[1][name]
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("ddiff: ")
    assert [word for word in words if word not in lines[0]] == [], lines[0]
    assert done.status == status, lines[0]


def test_nothing_is_littered_or_executed(world: tuple[Path, dict[str, Done]]) -> None:
    cwd, _ = world
    expected = {"digits", "plain", "cut.ckpt", "evil.ckpt", "other.ckpt", "target.ckpt", "volumes"}
    expected |= {"bomb.ckpt", "model.onnx"}
    assert {p.name for p in cwd.iterdir()} == expected
    assert checkpoint(cwd / "digits")["global_step"] == 2


def test_a_broken_library_in_torch_s_cache_says_what_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    error = ImportError(f"{tmp_path}/ab/main.so: file too short")
    text, status = explain(error, "train")
    assert (f"remove {tmp_path} and" in text, status) == (True, 1)
    text, _ = explain(ImportError("no module of that name"), "train")
    assert "remove" not in text
