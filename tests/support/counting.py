"""A job that counts: `python -m tests.support.counting FILE STEPS SECONDS`.

It appends a line a step, the number and its process, continues a file that exists, and on SIGTERM
adds a line that says so.
"""

import os
import signal
import sys
import time
from pathlib import Path


def saved(*_: object) -> None:
    with Path(sys.argv[1]).open("a") as file:
        file.write(f"saved {os.getpid()}\n")
    sys.exit(143)


def numbers(file: Path) -> list[int]:
    """The numbers in the file so far."""
    words = [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []
    return [int(word) for word in words if word != "saved"]


def processes(file: Path) -> list[str]:
    """The processes that wrote the file, in their order."""
    return list(dict.fromkeys(line.split()[1] for line in file.read_text().splitlines()))


def main() -> None:
    signal.signal(signal.SIGTERM, saved)
    file, steps, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    for number in range(len(numbers(file)), steps):
        with file.open("a") as opened:
            opened.write(f"{number} {os.getpid()}\n")
        time.sleep(seconds)
    print(f"counted to {steps} with {os.environ.get('OMP_NUM_THREADS')} threads")


if __name__ == "__main__":
    main()
