"""Memory that is freed in one step serves the next one, on a processor with glibc.

Gradients and 16-bit copies of the weights are hundreds of MB that every step takes and gives back.
glibc hands large blocks back to the system at once, which then clears each page anew when it is
touched. Told to keep what is freed, it takes the pages once. Accelerators have caches of their own.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

__all__ = ["keep_freed_memory"]

# <malloc.h>; the values are part of glibc's binary interface
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26}
_DEFAULTS = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 2**17, _TOP_PAD: 0}


def keep_freed_memory(device: str) -> Callable[[], None]:
    """Keep freed memory in this process.

    Args:
        device: Type of the device that is trained on; only "cpu" has something to gain.

    Returns:
        A function that gives it back to the system, and goes back to doing so.
    """
    library = _glibc() if device == "cpu" else None
    if library is None:
        return lambda: None
    for option, value in _KEPT.items():
        library.mallopt(option, value)

    def give_back() -> None:
        for option, value in _DEFAULTS.items():
            library.mallopt(option, value)
        library.malloc_trim(0)

    return give_back


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    known = all(hasattr(library, name) for name in ("gnu_get_libc_version", "mallopt"))
    return library if known else None
