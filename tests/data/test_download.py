import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ddiff.system.downloads import Archive, fetch
from ddiff.system.errors import DdiffError

CHUNK = 1 << 16  # what the last, cut chunk held is asked for again
CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and server.ranges else 0
        server.starts.append(start)
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        stop = server.cuts.pop(0) if server.cuts else len(server.content)
        self.wfile.write(server.content[start:stop])
        if stop < len(server.content):
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.cuts, server.starts, server.ranges = CONTENT, [], [], True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_port}/"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(server, folder, sha256=SHA256, mirrors=1):
    return fetch("f.gz", folder, (server.address,) * mirrors, sha256)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_cut_download_goes_on_where_it_stopped(server, tmp_path):
    server.cuts = [4 * CHUNK, 10 * CHUNK]
    with pytest.raises(DdiffError, match="download failed, 127"):
        get(server, tmp_path)
    assert names(tmp_path) == ["f.gz.part"]
    assert (tmp_path / "f.gz.part").read_bytes() == CONTENT[: 10 * CHUNK]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.starts == [0, 4 * CHUNK, 10 * CHUNK]
    assert names(tmp_path) == ["f.gz"]


def test_another_mirror_continues(server, tmp_path):
    server.cuts = [4 * CHUNK]
    assert get(server, tmp_path, mirrors=2).read_bytes() == CONTENT
    assert server.starts == [0, 4 * CHUNK]


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.cuts, server.ranges = [4 * CHUNK], False
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.starts == [0, 0]


def test_a_part_that_was_already_whole(server, tmp_path):
    (tmp_path / "f.gz.part").write_bytes(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["f.gz"]


def test_a_foreign_part_is_found_out_and_dropped(server, tmp_path):
    (tmp_path / "f.gz.part").write_bytes(b"x" * 1000)
    assert get(server, tmp_path, mirrors=2).read_bytes() == CONTENT
    assert server.starts == [1000, 0]


def test_a_wrong_file_never_gets_the_final_name(server, tmp_path):
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DdiffError, match="wrong sha256"):
        get(server, tmp_path)
    assert names(tmp_path) == []


def test_offline_says_what_to_put_where(tmp_path):
    nowhere = "http://127.0.0.1:9/"  # the discard port: refused
    archive = Archive({"a.gz": SHA256, "b.gz": SHA256}, (nowhere,))
    with pytest.raises(DdiffError) as caught:
        archive.download(tmp_path / "root", ["a.gz", "b.gz"])
    assert str(caught.value) == (
        f"a.gz, b.gz are not in {tmp_path / 'root'} (download failed, 127.0.0.1:9: "
        f"ConnectionError): get them from {nowhere} and put them there"
    )


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DdiffError, match="cannot write"):
        fetch("a.gz", tmp_path / "file", ("http://127.0.0.1:9/",), SHA256)
