"""What is refused, in one line, before anything in a file runs or anything is left behind."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ddiff.artifacts import writing
from ddiff.artifacts.formats import ExportWrapper
from ddiff.artifacts.seal import seal, unseal
from ddiff.artifacts.trained import Trained
from ddiff.system.errors import ConfigError, DdiffError
from tests.artifacts.worlds import Make, export_of


def load(path: Path) -> Trained:
    return Trained.load(str(path), "ema", "cpu")


@pytest.fixture
def never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a refused file was opened")

    monkeypatch.setattr(torch.jit, "load", opened)
    monkeypatch.setattr(torch, "load", opened)


@pytest.fixture(scope="module")
def made(exported: Make) -> Path:
    return exported("2D", "TorchScript").path


@pytest.mark.usefixtures("never_opened")
def test_damaged_files(made: Path, tmp_path: Path) -> None:
    good, path = made.read_bytes(), tmp_path / "model.ts"
    for place in (0, len(good) // 3, len(good) - 3000, len(good) - 200):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.raises(DdiffError, match=r"refused .*model\.ts.*altered"):
            load(path)
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(DdiffError, match="cut short"):
        load(path)
    with pytest.raises(DdiffError, match="there is no artifact"):
        load(tmp_path / "none.onnx")


@pytest.mark.usefixtures("never_opened")
def test_another_kind_of_file(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(runs["2D"] / "checkpoints/last.ckpt", tmp_path / "model.pt2")
    with pytest.raises(DdiffError, match=r"not an artifact of ddiff\.export"):
        load(tmp_path / "model.pt2")


@pytest.mark.usefixtures("never_opened")
def test_the_program_of_a_stranger(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DDIFF_CACHE", str(tmp_path))
    _, sha256 = unseal(made)
    with pytest.raises(DdiffError, match=f"TorchScript is a program.*DDIFF_TRUST={sha256[:16]}"):
        load(made)
    for wrong in ("0" * 64, sha256[:8], ""):
        monkeypatch.setenv("DDIFF_TRUST", wrong)
        with pytest.raises(DdiffError, match="not exported here"):
            load(made)


def test_one_who_is_trusted(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DDIFF_CACHE", str(tmp_path))
    monkeypatch.setenv("DDIFF_TRUST", f"my_package,{unseal(made).sha256[:16]}")
    load(made)


@pytest.mark.slow
def test_a_stranger_s_onnx_is_no_program(
    exported: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = exported("3D", "Onnx").path
    monkeypatch.setenv("DDIFF_CACHE", str(tmp_path))
    load(path)


@pytest.mark.usefixtures("never_opened")
@pytest.mark.parametrize(
    ("group", "name", "words"),
    [("net", "_target_", "not allowed"), ("format", "_target_", "not allowed"),
     ("net", "widht", "net.widht")],
)  # fmt: skip
def test_facts_of_a_stranger(made: Path, tmp_path: Path, group: str, name: str, words: str) -> None:
    facts, _ = unseal(made)
    facts["config"][group][name] = "os.system"
    path = tmp_path / "model.ts"
    path.write_bytes(seal(b"PK\3\4" + b"PK\5\6" + 18 * b"\0", facts)[0])
    with pytest.raises(ConfigError, match=words):
        load(path)


@pytest.mark.usefixtures("never_opened")
@pytest.mark.parametrize("name", ["config", "batch", "net", "spent"])
def test_facts_of_another_type(made: Path, tmp_path: Path, name: str) -> None:
    facts, _ = unseal(made)
    path = tmp_path / "model.ts"
    path.write_bytes(seal(b"PK\3\4" + b"PK\5\6" + 18 * b"\0", facts | {name: 1.5})[0])
    with pytest.raises(DdiffError, match=f"facts lack {name}"):
        load(path)


class Off(ExportWrapper):
    """A net with one wrong weight."""

    def __init__(self, net: nn.Module, precision: str):
        super().__init__(net, precision)
        with torch.no_grad():
            next(p for p in self.net.parameters() if p.ndim == 4).view(-1)[0].add_(0.5)


def test_a_wrong_file_gets_no_name(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(writing, "ExportWrapper", Off)
    with pytest.raises(DdiffError, match=r"not the net: PSNR .* in fp32, where 100 dB"):
        export_of(runs["2D"], "TorchScript", out=str(tmp_path / "new" / "model.ts"))
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model.ts").write_text("before")
    monkeypatch.setitem(writing.LEAST_PSNR, "fp32", 201.0)
    with pytest.raises(ConfigError, match=r"model\.ts exists already; .* overwrite=true"):
        export_of(runs["3D"], "TorchScript", out=str(tmp_path / "model.ts"))
    with pytest.raises(DdiffError, match="not the net"):
        export_of(runs["3D"], "TorchScript", out=str(tmp_path / "model.ts"), overwrite=True)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]


def test_a_label_of_a_net_that_ignores_the_first_is_seen(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The check reads labels: "no label" given to every row is another net."""

    class Deaf(ExportWrapper):
        def forward(self, x, t, y=None):
            return super().forward(x, t, None if y is None else y * 0 - 1)

    monkeypatch.setattr(writing, "ExportWrapper", Deaf)
    with pytest.raises(DdiffError, match="not the net"):
        export_of(runs["2D"], "TorchScript", out=str(tmp_path / "model.ts"))


@pytest.mark.parametrize("missing", ["onnxscript", "onnxruntime"])
def test_onnx_without_its_libraries(
    missing: str, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DdiffError, match=rf"needs {missing}.*ddiff\[onnx\]"):
        export_of(runs["2D"], "Onnx", out=str(tmp_path / "model.onnx"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sampling_without_onnx_runtime(exported: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exported("3D", "Onnx").path
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DdiffError, match="onnxruntime, which is not installed"):
        load(path)


FULL_DISK = """
import resource, sys
from pathlib import Path
from ddiff.system.errors import DdiffError
from tests.artifacts.worlds import export_of

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # bytes of one file
for name, ending in zip(sys.argv[3].split(), sys.argv[4].split()):
    try:
        export_of(Path(sys.argv[1]), name, out=f"{sys.argv[2]}/model.{ending}")
    except DdiffError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_full_disk_is_one_line(runs: dict[str, Path], tmp_path: Path) -> None:
    """Torch's own writer of files would end the process."""
    engines = bool(importlib.util.find_spec("tensorrt_rtx"))
    names = "TorchScript Pt2 Onnx" + " TensorRT" * engines
    endings = "ts pt2 onnx" + " engine" * engines
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(runs["2D"]), str(tmp_path), names, endings],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [
        f"cannot write {tmp_path}/model.{end}: File too large" for end in endings.split()
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_batch_larger_than_the_calibration(runs: dict[str, Path], tmp_path: Path) -> None:
    """The calibration meets 256 rows or fewer; repeating them leaves the ranges as they are."""
    options = {"dynamic_batch": False, "batch_size": 600, "out": str(tmp_path / "model.onnx")}
    assert export_of(runs["2D"], "Onnx", "int8", **options).facts["batch"] == 600


@pytest.mark.parametrize(
    ("name", "precision", "words"),
    [("TorchScript", "int8", "no int8.*format=onnx"), ("Pt2", "int8", "fp32, bf16, fp16"),
     ("Onnx", "bf16", "no bf16.*fp32, fp16, int8"), ("TorchScript", "fp16", "fp16.*on CPUs")],
)  # fmt: skip
def test_precisions_that_a_format_lacks(
    runs: dict[str, Path], name: str, precision: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        export_of(runs["2D"], name, precision)
