"""Freed memory is taken again without page faults."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
from ddiff.system.devices import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        large, larger = bytearray(40 << 20), bytearray(80 << 20)  # beyond what glibc keeps itself
        del large, larger
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_the_second_time_there_are_no_faults() -> None:
    found = {}
    for mode in ("keep", "leave"):
        done = subprocess.run(
            [sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True
        )
        found[mode] = int(done.stdout)
    assert found["leave"] > 1000  # 480 MB in pages of 4 kB are 122,880; larger pages are fewer
    assert found["keep"] < found["leave"] / 50
