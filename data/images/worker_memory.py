"""Keep freed memory in a loader worker: handing every large image back to the system costs a quarter of the time.

The C library returns blocks of more than a few hundred kilobytes to the system as soon as they are freed. The next
image gets new pages, which the system clears one after the other: 1,900 of them for a photograph of 1600 x 1200.
"""

import ctypes
import platform

# glibc's names of options, from malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# the largest that glibc accepts on 64 bits
_LARGEST_KEPT = 2**25
_MOST_KEPT = 2**29


def keep_freed_memory() -> bool:
    """Let this process reuse what it freed, up to 512 MB; True where the C library (glibc) can do that.

    Meant for processes that only load data: what is kept is not there for others. The largest memory of the process
    stays what it was.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT) and library.mallopt(_TRIM_THRESHOLD, _MOST_KEPT))
