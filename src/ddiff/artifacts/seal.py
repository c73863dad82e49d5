"""Facts at the end of a file, and a hash of every byte before it: one seal for all formats.

The facts are one JSON object, in the comment of a zip archive (TorchScript, pt2, AOTInductor) or
in the metadata of an ONNX model, appended either way, so that the file ends in

    ... "length": "<of the JSON, 8 digits>", "sha256": "<of all bytes before these 64 digits>"}

and is checked before any library parses it. Whoever alters a file can seal it anew: the hash tells
damage, not who made it.
"""

import hashlib
import json
import mmap
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

from ddiff.system.errors import DdiffError

VERSION = 1
END = re.compile(rb'"length": "(\d{8})", "sha256": "([0-9a-f]{64})"\}\Z')
END_LENGTH = len('"length": "12345678", "sha256": ""}') + 64
LONGEST_ZIP_COMMENT = 65535


class Sealed(NamedTuple):
    facts: dict[str, Any]
    sha256: str


def seal(payload: bytes, facts: dict[str, Any]) -> tuple[bytes, str]:
    """`payload` (a zip archive or an ONNX model) with its facts, and the hash."""
    text = json.dumps({"ddiff_artifact": VERSION, **facts})[:-1] + ", "
    length = len(text) + END_LENGTH
    text += f'"length": "{length:08d}", "sha256": "{"0" * 64}"}}'
    body = (_zip if payload[:2] == b"PK" else _onnx)(payload, text)[:-66]
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
