"""The seal: facts at the end of a file, and a hash of all bytes before."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import onnx
import pytest

from ddiff.artifacts.seal import seal, unseal
from ddiff.system.errors import DdiffError

FACTS = {"name": "ä net", "n": 3, "none": None}


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("one", b"1" * 50)
    return file.getvalue()


def model() -> bytes:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["z"])], "g", [x], [
        onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1])
    ])  # fmt: skip
    return onnx.helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize("payload", [archive(), model()], ids=["zip", "onnx"])
def test_facts_come_back_and_the_hash_is_of_all_bytes_before_it(
    payload: bytes, tmp_path: Path
) -> None:
    sealed, sha256 = seal(payload, FACTS)
    path = tmp_path / "file"
    path.write_bytes(sealed)
    facts, found = unseal(path)
    assert {name: facts[name] for name in FACTS} == FACTS
    assert found == sha256 == hashlib.sha256(sealed[:-66]).hexdigest()
    assert sealed[-66:-2].decode() == sha256


def test_a_zip_stays_a_zip_and_its_comment_is_json(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(seal(archive(), FACTS)[0])
    with zipfile.ZipFile(path) as found:
        assert found.read("one") == b"1" * 50
        assert json.loads(found.comment)["name"] == "ä net"


def test_a_model_stays_a_model_and_its_property_is_json() -> None:
    found = onnx.load_from_string(seal(model(), FACTS)[0])
    onnx.checker.check_model(found)
    assert {p.key: json.loads(p.value)["n"] for p in found.metadata_props} == {"ddiff": 3}


def test_every_altered_byte_is_refused(tmp_path: Path) -> None:
    sealed, _ = seal(archive(), FACTS)
    path = tmp_path / "file"
    for at in range(len(sealed)):
        path.write_bytes(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
        with pytest.raises(DdiffError, match=r"refused .*(altered|cut short)"):
            unseal(path)


def test_every_shorter_or_longer_file_is_refused(tmp_path: Path) -> None:
    sealed, _ = seal(archive(), FACTS)
    path = tmp_path / "file"
    for wrong in [*(sealed[:n] for n in range(len(sealed))), sealed + b" "]:
        path.write_bytes(wrong)
        with pytest.raises(DdiffError, match=r"refused .*cut short"):
            unseal(path)


def test_facts_longer_than_a_zip_holds_are_an_error() -> None:
    with pytest.raises(DdiffError, match="65535"):
        seal(archive(), {"long": "x" * 65536})


def test_another_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddiff.artifacts.seal.VERSION", 2)
    (tmp_path / "file").write_bytes(seal(archive(), FACTS)[0])
    monkeypatch.undo()
    with pytest.raises(DdiffError, match="version 2; this ddiff reads 1"):
        unseal(tmp_path / "file")
