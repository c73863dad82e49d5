"""Files from the network: checked by sha256, from any mirror."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ddiff.system.errors import DdiffError

CHUNK = 2**16  # bytes
TIMEOUT = (10, 60)  # seconds: to connect, and between two bytes
HEADERS = {"Accept-Encoding": "identity"}  # an archive as it is, so that its length is known


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
    """folder/name, downloaded from the first mirror that has it whole. Raises DdiffError.

    A mirror whose download broke off on the way is asked a second time, after the others.
    """
    import pooch
    import requests
    from filelock import FileLock

    pooch.get_logger().setLevel("WARNING")
    path, urls = folder / name, [mirror + name for mirror in mirrors]
    reason = "no mirror"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):  # the runs of a sweep may start together
            for url in (*urls, *urls):
                if url not in urls:
                    continue
                bar: Any = Bar(name)  # Any: pooch's types are narrower than what it takes
                http: Any = pooch.HTTPDownloader(bar, CHUNK, timeout=TIMEOUT, headers=HEADERS)
                try:
                    pooch.retrieve(url, sha256, name, folder, downloader=http)
                    with suppress(PermissionError):  # it was there already, another user's
                        path.chmod(0o644)  # pooch leaves it readable for its owner only
                    return path
                except requests.RequestException as error:
                    reason = f"{urlsplit(url).netloc}: {type(error).__name__}"
                    broken = bar.done > 0
                except ValueError:  # pooch's word for a wrong hash; nothing of the file is left
                    reason, broken = f"{urlsplit(url).netloc}: wrong sha256", False
                finally:
                    bar.close()
                if not broken:
                    urls.remove(url)
    except OSError as error:
        raise DdiffError(f"cannot write {path}: {error.strerror or error}") from error
    raise DdiffError(f"download failed, {reason}")


class Bar:
    """Progress of one download, by the part of tqdm's interface that pooch uses."""

    def __init__(self, name: str) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self.progress, self.total, self.done = Progress(*columns), 0, 0
        self.task = self.progress.add_task(name, total=None)

    def update(self, count: int) -> None:
        self.progress.start()  # not before the first byte: a mirror that fails shows no bar
        self.done += count
        self.progress.update(self.task, completed=self.done, total=self.total or None)

    def reset(self) -> None:
        """pooch then adds the total, which is exact where it is known."""
        self.done = 0 if self.total else self.done

    def close(self) -> None:
        if self.progress.live.is_started:
            self.progress.stop()
