"""Files from the network: checked by sha256, continued where they stopped, from any mirror."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ddiff.system.errors import DdiffError


@dataclass(frozen=True)
class Archive:
    """The files of one data set, where they may lie under its root, and where they come from."""

    sha256: dict[str, str]  # file name -> hash
    mirrors: tuple[str, ...]  # addresses ending in /
    folders: tuple[str, ...] = (".",)

    def find(self, root: Path, *names: str) -> Path | None:
        """The first of `names` that exists in root or one of the usual folders below it."""
        places = (root / folder / name for folder in self.folders for name in names)
        return next((place for place in places if place.is_file()), None)

    def download(self, root: Path, names: list[str]) -> None:
        """Fetches `names` into root, or says what to put there by hand."""
        for i, name in enumerate(names):
            try:
                fetch(name, root, self.mirrors, self.sha256[name])
            except DdiffError as error:
                raise self.missing(root, names[i:], f" ({error})") from None

    def missing(self, root: Path, names: list[str], why: str = "") -> DdiffError:
        them = "it" if len(names) == 1 else "them"
        are = "is" if len(names) == 1 else "are"
        address = self.mirrors[0] + (names[0] if len(names) == 1 else "")
        return DdiffError(
            f"{', '.join(names)} {are} not in {root}{why}: "
            f"get {them} from {address} and put {them} there"
        )


def fetch(name: str, folder: Path, mirrors: tuple[str, ...], sha256: str) -> Path:
    """folder/name, downloaded from the first mirror that has it whole. Raises DdiffError."""
    import pooch
    import requests
    from filelock import FileLock

    pooch.get_logger().setLevel("WARNING")
    path, part = folder / name, folder / f"{name}.part"
    reason = "no mirror"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):  # the runs of a sweep may start together
            for url in _attempts(mirrors, name, part):
                try:
                    # pooch's protocol misnames the parameters that pooch passes by position
                    resuming: Any = Resuming(part)
                    pooch.retrieve(url, sha256, name, folder, downloader=resuming)
                    return path
                except requests.RequestException as error:
                    reason = f"{urlsplit(url).netloc}: {type(error).__name__}"
                except ValueError:  # pooch's word for a wrong hash; nothing of the file is left
                    reason = f"{urlsplit(url).netloc}: wrong sha256"
    except OSError as error:
        raise DdiffError(f"cannot write {path}: {error.strerror or error}") from error
    raise DdiffError(f"download failed, {reason}")


def _attempts(mirrors: tuple[str, ...], name: str, part: Path) -> Iterator[str]:
    """Every mirror once, and once more if one of them sent a part."""
    for _ in range(2):
        yield from (mirror + name for mirror in mirrors)
        if not part.exists():
            return


class Resuming:
    """A pooch downloader that writes to `part` and asks only for what is not there yet."""

    def __init__(self, part: Path) -> None:
        self.part = part

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> None:
        import requests

        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as reply:
            if reply.status_code != requests.codes.requested_range_not_satisfiable:
                reply.raise_for_status()
                have = have if reply.status_code == requests.codes.partial_content else 0
                self._receive(reply, have)
        os.replace(self.part, output_file)  # nothing left to ask for: the hash decides

    def _receive(self, reply: Any, have: int) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        length = reply.headers.get("Content-Length")
        columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns) as progress, open(self.part, "ab" if have else "wb") as file:
            total = have + int(length) if length else None
            task = progress.add_task(self.part.stem, total=total, completed=have)
            for chunk in reply.iter_content(1 << 16):
                file.write(chunk)
                progress.advance(task, len(chunk))
