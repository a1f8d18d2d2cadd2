"""Tune glibc's malloc for image buffers that are allocated and freed thirty times a second."""

from __future__ import annotations

import ctypes
import sys

# Option numbers from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 512 * 2**20
_LARGEST_BYTES = 32 * 2**20
_GROWTH_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for the next image; return whether the C library supports it.

    By default glibc returns large blocks to the kernel at once, and each new image costs a page fault every 4 kB.
    These page faults take more than half of the time that a mask needs outside the network.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    wanted = {_M_MMAP_THRESHOLD: _LARGEST_BYTES, _M_TRIM_THRESHOLD: _KEPT_BYTES, _M_TOP_PAD: _GROWTH_BYTES}
    return all(mallopt(option, value) == 1 for option, value in wanted.items())
