"""Number of threads that compute: at most one for each core that other programs leave idle.

Threads meet at barriers many times a step. If another program takes the core of one thread, all
others wait, so a thread too many costs more than it gives.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddiff.system.console import console
from ddiff.system.devices import device_for

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")  # Linux; elsewhere nothing is known
IDLE = 0.7  # the part of a core's time that must be idle for a thread
SECONDS = 0.2  # of the shortest look
SET_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Cores:
    """The cores that this process may use, and what others do on them since the last look."""

    def __init__(self) -> None:
        able = hasattr(os, "sched_getaffinity")
        self.mine = {f"cpu{n}" for n in os.sched_getaffinity(0)} if able else set[str]()
        self.since = self._read()

    def idle(self) -> float | None:
        """The mean number of cores that others left idle; None where the system does not say."""
        wait = SECONDS - (time.monotonic() - self.since[0])
        if not self.since[2]:
            return None
        time.sleep(max(0.0, wait))
        (then, own_then, before), now = self.since, self._read()
        self.since = now
        busy = 0.0
        for core in before.keys() & now[2].keys():
            idle, total = (b - a for a, b in zip(before[core], now[2][core], strict=True))
            busy += 1 - idle / total if total else 0.0
        own = (now[1] - own_then) / (now[0] - then)
        return len(before) - max(0.0, busy - own)

    def _read(self) -> tuple[float, float, dict[str, tuple[int, int]]]:
        """The time, this process's own seconds on cores, and {core: (idle, all)} in ticks."""
        found = {}
        if self.mine and (PROC / "stat").is_file():
            for line in (PROC / "stat").read_text().splitlines():
                name, *ticks = line.split()
                if name in self.mine:
                    user, nice, system, idle, wait, *rest = map(int, ticks)
                    total = user + nice + system + idle + wait + sum(rest[:3])  # guests are in user
                    found[name] = (idle + wait, total)
        return time.monotonic(), time.process_time(), found


def quota() -> float:
    """Cores' worth of time that this process's cgroups allow; infinite where there is no limit."""
    found = [math.inf]
    lines = PROC / "self" / "cgroup"
    for line in lines.read_text().splitlines() if lines.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / controllers
        for folder in (root / path.lstrip("/"), *(root / path.lstrip("/")).parents):
            if not folder.is_relative_to(root):
                break
            found.append(_limit(folder))
    return min(found)


def cores_here() -> list[int]:
    """The numbers of the cores that this process may use, no more of them than its quota allows."""
    able = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if able else list(range(os.cpu_count() or 1))
    limit = quota()
    return cores if limit == math.inf else cores[: max(1, math.ceil(limit))]


def _limit(folder: Path) -> float:
    """Quota of one cgroup in cores, from the second version's file or the first version's.

    It is infinite if there is none.
    """
    try:
        if (folder / "cpu.max").is_file():
            allowed, period = (folder / "cpu.max").read_text().split()
        else:
            allowed = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text()
    except (OSError, ValueError):
        return math.inf
    return math.inf if allowed in ("max", "-1") else int(allowed) / int(period)


def fitting(idle: float, most: int) -> int:
    """Threads for so many idle cores: at least half of `most`, for where every core is busy the
    system still gives each program its share."""
    return min(most, max(1, most // 2, int(idle + 1 - IDLE)))


def most_threads() -> int:
    """Largest number of threads: torch's own or the user's setting, within the cgroup's quota."""
    import torch

    number, limit = torch.get_num_threads(), quota()
    return number if limit == math.inf else max(1, min(number, math.ceil(limit)))


@contextmanager
def threads(asked: int | str, accelerator: str, recorded: int | None = None) -> Iterator[None]:
    """Inside the block torch and the kernels compute with the threads `asked` for.

    asked: a number, auto or adapt (all of them, for AdaptThreads to choose from). recorded: the
    number of the run that is resumed, which auto keeps, for results depend on it. Under
    OMP_NUM_THREADS or MKL_NUM_THREADS, auto takes that number.
    """
    import torch

    before = torch.get_num_threads()
    if isinstance(asked, int) or device_for(accelerator).type == "cpu":
        torch.set_num_threads(_chosen(asked, recorded))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _chosen(asked: int | str, recorded: int | None) -> int:
    most = most_threads()
    by_user = isinstance(asked, int) or any(os.environ.get(name) for name in SET_BY_USER)
    number = asked if isinstance(asked, int) else most
    if asked == "auto" and not by_user and most > 1:
        idle = Cores().idle()
        fits = most if idle is None else fitting(idle, most)
        number = min(recorded, most) if recorded else fits
        if number != fits:
            console.print(
                f"threads={number}, as in the run so far; threads={fits} would suit this machine "
                "now, but gives other bits"
            )
        elif number < most:
            console.print(
                f"threads={number}: other programs leave {idle:.1f} of {most} cores idle; "
                f"threads={most} takes all"
            )
    if recorded and asked != "adapt" and number != recorded:
        console.print(
            f"threads={number}, and the run had {recorded}: it continues, but not bit for bit"
        )
    return number
