"""How the C library keeps memory."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """What a step frees stays with the process, and the next step takes it without a page fault.

    glibc maps large blocks one by one, and gives them and the top of its heap back to the system,
    which clears each page again when it is next touched. Elsewhere this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
