import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ddiff.system.downloads import Archive, fetch
from ddiff.system.errors import DdiffError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.asked.append(self.path)
        if self.path not in ("/f.gz", "/mirror/f.gz"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        stop = server.cuts.pop(0) if server.cuts else len(server.content)
        self.wfile.write(server.content[:stop])
        if stop < len(server.content):
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.cuts, server.asked = CONTENT, [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_port}/"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(server, folder, *mirrors):
    addresses = [server.address + mirror for mirror in mirrors or ("",)]
    return fetch("f.gz", folder, tuple(addresses), SHA256)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_download_that_broke_off_is_tried_once_more(server, tmp_path):
    server.cuts = [4 << 16, 10 << 16, 7 << 16]
    with pytest.raises(DdiffError, match=r"failed, 127\.0\.0\.1:\d+: ChunkedEncodingError"):
        get(server, tmp_path)
    assert names(tmp_path) == []
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["/f.gz"] * 4
    assert names(tmp_path) == ["f.gz"]


def test_the_next_mirror_is_asked_first(server, tmp_path):
    server.cuts = [4 << 16]
    path = get(server, tmp_path, "none/", "", "mirror/")
    assert path.read_bytes() == CONTENT
    assert server.asked == ["/none/f.gz", "/f.gz", "/mirror/f.gz"]


def test_a_mirror_without_the_file_is_asked_once(server, tmp_path):
    server.cuts = [4 << 16]
    assert get(server, tmp_path, "none/", "").read_bytes() == CONTENT
    assert server.asked == ["/none/f.gz", "/f.gz", "/f.gz"]


def test_what_is_there_is_not_downloaded_and_damage_is_replaced(server, tmp_path):
    (tmp_path / "f.gz").write_bytes(CONTENT)
    assert get(server, tmp_path) == tmp_path / "f.gz"
    assert server.asked == []
    (tmp_path / "f.gz").write_bytes(CONTENT[:-1])
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["/f.gz"]


def test_all_users_may_read_it(server, tmp_path):
    assert get(server, tmp_path).stat().st_mode & 0o777 == 0o644


def test_the_bar_shows_the_file_and_its_bytes(server, tmp_path, capsys):
    get(server, tmp_path)
    said = capsys.readouterr().out.split()
    assert said[0] == "f.gz"
    assert "1.0/1.0 MB" in " ".join(said)
    with pytest.raises(DdiffError):
        fetch("f.gz", tmp_path / "other", ("http://127.0.0.1:9/",), SHA256)
    assert capsys.readouterr().out == ""  # nothing came


def test_a_wrong_file_never_gets_the_final_name(server, tmp_path):
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DdiffError, match="wrong sha256"):
        get(server, tmp_path)
    assert server.asked == ["/f.gz"]
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
