"""Facts at the end of a file, and a hash of every byte before it: one seal for all formats.

The facts are one JSON object, in the comment of a zip archive (TorchScript, pt2, AOTInductor), in
the metadata of an ONNX model, or after the bytes of a TensorRT engine: appended in all three, so
that the file ends in

    ... "length": "<of the JSON, 8 digits>", "sha256": "<of all bytes before these 64 digits>"}

and is checked before any library parses it. Whoever alters a file can seal it anew: the hash tells
damage, not who made it.
"""

import hashlib
import json
import mmap
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ddiff.system.errors import DdiffError

VERSION = 1
END = re.compile(rb'"length": "(\d{8})", "sha256": "([0-9a-f]{64})"\}\Z')
END_LENGTH = len('"length": "12345678", "sha256": ""}') + 64
LONGEST_ZIP_COMMENT = 65535
ENGINE = b"vtrt"  # how an engine of TensorRT for RTX begins


class Sealed(NamedTuple):
    facts: dict[str, Any]
    sha256: str


def seal(payload: bytes, facts: dict[str, Any]) -> tuple[bytes, str]:
    """`payload` (a zip archive, an ONNX model or an engine) with its facts, and the hash."""
    text = json.dumps({"ddiff_artifact": VERSION, **facts})[:-1] + ", "
    length = len(text) + END_LENGTH
    text += f'"length": "{length:08d}", "sha256": "{"0" * 64}"}}'
    body = _container(payload)(payload, text)[:-66]
    sha256 = hashlib.sha256(body).hexdigest()
    return body + f'{sha256}"}}'.encode(), sha256


def unseal(path: Path) -> Sealed:
    """The facts of a file whose bytes are those that were sealed; nothing else in it is read."""
    if not path.is_file():
        raise DdiffError(f"there is no artifact {path}")
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - END_LENGTH))
        end = END.fullmatch(file.read())
        if not end:
            raise DdiffError(f"refused {path}: it is cut short, or not an artifact of ddiff.export")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            sha256 = hashlib.sha256(memoryview(whole)[: size - 66]).hexdigest()
            text = whole[max(0, size - int(end[1])) :]
    if sha256 != end[2].decode():
        raise DdiffError(f"refused {path}: its bytes do not have its sha256; it was altered")
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise DdiffError(f"refused {path}: its facts are no JSON ({error})") from error
    if facts.get("ddiff_artifact") != VERSION:
        found = facts.get("ddiff_artifact")
        raise DdiffError(f"{path} is an artifact of version {found}; this ddiff reads {VERSION}")
    return Sealed(facts, sha256)


def payload_of(path: Path) -> bytes:
    """The bytes before the facts of a file that `unseal` has checked: an engine as it was built."""
    sealed = path.read_bytes()
    end = END.search(sealed[-END_LENGTH:])
    assert end
    return sealed[: -int(end[1])]


def _container(payload: bytes) -> Callable[[bytes, str], bytes]:
    """The function that appends text to a payload of this kind."""
    for start, append in ((b"PK", _zip), (ENGINE, _engine)):
        if payload.startswith(start):
            return append
    return _onnx


def _engine(payload: bytes, text: str) -> bytes:
    """The engine, then `text`: `payload_of` cuts it off before TensorRT reads the engine."""
    return payload + text.encode()


def _zip(payload: bytes, text: str) -> bytes:
    """The archive with `text` as its comment."""
    assert payload[-22:-18] == b"PK\5\6"  # its last record, without a comment
    if len(text) > LONGEST_ZIP_COMMENT:
        raise DdiffError(f"the facts take {len(text)} bytes; a zip holds {LONGEST_ZIP_COMMENT}")
    return payload[:-2] + struct.pack("<H", len(text)) + text.encode()


def _onnx(payload: bytes, text: str) -> bytes:
    """The model with `text` as a property: protobuf messages one after another are merged."""
    from onnx import ModelProto, StringStringEntryProto

    properties = [StringStringEntryProto(key="ddiff", value=text)]
    return payload + ModelProto(metadata_props=properties).SerializeToString()
