"""Memory of a side: what it holds at rest, and the most that it held while training."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from pathlib import Path

import psutil
import torch
from torch import nn

__all__ = ["MemoryMeter"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class MemoryMeter:
    """Counts from its `start`: allocated memory on CUDA, resident memory of the process elsewhere.

    Attributes:
        idle: Bytes held at the start.
        exact: Whether the high-water mark counts from the start; where the system does not allow
            that, loading the model counts too.
    """

    def __init__(self) -> None:
        self.idle = 0
        self.exact = True

    def start(self, model: nn.Module) -> None:
        """Take the state of rest, weights in memory, and forget what came before."""
        gc.collect()
        for parameter in model.parameters():
            parameter.detach().sum()  # weights of a mapped file come into memory when they are read
        _give_back()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.idle = torch.cuda.memory_allocated()
            return
        self.idle = psutil.Process().memory_info().rss
        try:
            _CLEAR.write_text("5", encoding="ascii")
        except OSError:
            self.exact = False

    def peak(self) -> int:
        """The most bytes held since the start."""
        if torch.cuda.is_available():
            return int(torch.cuda.max_memory_allocated())
        return max(self.idle, _high_water_mark())


def _give_back() -> None:
    """Have the C library return what is free, which counts as resident otherwise."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _high_water_mark() -> int:
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # noqa: PLC0415 - not on Windows

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
