"""Memory that glibc's malloc holds; with other C libraries nothing is done."""

import ctypes
import platform


def return_freed_memory():
    """Return freed memory to the system, at the end of a phase that needed much."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
