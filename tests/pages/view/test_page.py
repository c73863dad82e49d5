import base64
import json
import re
import zlib

import numpy as np
import pytest

from ddiff.pages.view import page
from ddiff.pages.view.meshes import isosurface
from ddiff.pages.view.page import write_page
from ddiff.system.errors import DdiffError
from tests.pages.view.solids import ball

IMAGES = np.linspace(-1, 1, 3 * 64).reshape(3, 1, 8, 8)
VOLUMES = np.stack([ball(5.0, 16), ball(3.0, 16, (3, -2, 4))])[:, None]


def data_of(path):
    text = path.read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def unpacked(item):
    """Voxels, vertices in voxels and faces, as the script of the page rebuilds them."""
    blob = zlib.decompress(base64.b64decode(item["blob"]))
    shape, count, corners = item["shown"], item["vertices"], item["faces"]
    index = "<u2" if count <= 65536 else "<u4"
    layout = [("u1", (np.prod(shape), 1)), ("<i2", (count, 3)), ("i1", (count, 4))]
    parts, offset = [], 0
    for kind, size in [*layout, (index, (corners, 3)), ("u1", (np.prod(shape[1:]), 1))]:
        part = np.frombuffer(blob, kind, np.prod(size), offset).reshape(size)
        offset += part.nbytes
        parts.append(np.cumsum(part, axis=0, dtype=part.dtype))
    assert offset == len(blob)
    places = parts[1] / 32767 * (max(shape) + 2) / 2 + (np.array(shape[::-1]) - 1) / 2
    return parts[0].reshape(shape), places, parts[3]


@pytest.mark.parametrize("samples", [IMAGES, VOLUMES], ids=["images", "volumes"])
def test_nothing_is_fetched(tmp_path, samples):
    text = write_page(samples, tmp_path / "a.html", "title").read_text()
    assert "default-src 'none'" in text
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+/", text.replace("data:image/png", ""))
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", text)
    assert not re.findall(r"\b(?:import|fetch|XMLHttpRequest|WebSocket)\b", text)
    assert "{{" not in text


@pytest.mark.parametrize("samples", [IMAGES[:1], VOLUMES[:1]], ids=["images", "volumes"])
def test_titles_and_captions_cannot_break_out(tmp_path, samples):
    evil = '</title></script><script>alert(1)</script>{{data}}"<!--'
    path = write_page(samples, tmp_path / "a.html", evil, captions=[evil])
    text = path.read_text()
    assert text.count("<script>") == 2
    assert "alert(1)</script>" not in text
    assert "<!--" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;{{data}}&quot;&lt;!--") == 2
    assert data_of(path)["items"][0]["caption"] == evil


def test_page_holds_the_mesh_and_the_voxels(tmp_path):
    item = data_of(write_page(VOLUMES, tmp_path / "a.html", "t"))["items"][1]
    voxels, places, corners = unpacked(item)
    vertices, faces = isosurface(VOLUMES[1])
    np.testing.assert_allclose(places, vertices, atol=3e-4)
    np.testing.assert_array_equal(corners, faces)
    np.testing.assert_allclose(voxels / 127.5 - 1, VOLUMES[1, 0], atol=1 / 255 + 1e-6)
    assert item["filled"] == pytest.approx((VOLUMES[1] > 0).mean())


def test_what_is_too_much_is_halved_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "FACES", 400)
    item = data_of(write_page(VOLUMES, tmp_path / "a.html", "t"))["items"][0]
    assert (item["size"], item["shown"]) == ([16, 16, 16], [8, 8, 8])
    assert 0 < item["faces"] <= 400
    monkeypatch.setattr(page, "SIDE", 4)
    item = data_of(write_page(VOLUMES, tmp_path / "b.html", "t"))["items"][0]
    assert item["shown"] == [4, 4, 4]


def test_an_empty_volume_is_on_the_page(tmp_path):
    item = data_of(write_page(np.full((4, 4, 4), -1.0), tmp_path / "a.html", "t"))["items"][0]
    assert (item["faces"], item["filled"]) == (0, 0)


def test_captions_must_match(tmp_path):
    with pytest.raises(DdiffError, match="1 captions for 3 samples"):
        write_page(IMAGES, tmp_path / "a.html", "t", captions=["one"])
