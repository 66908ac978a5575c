"""The state of every random generator that a step could draw from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch

__all__ = ["keep_randomness", "remember_randomness"]


def remember_randomness() -> Callable[[], None]:
    """Take down the state of Python's, NumPy's and torch's generators; the result restores it."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    of_torch = torch.get_rng_state()
    of_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore() -> None:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        if of_cuda:
            torch.cuda.set_rng_state_all(of_cuda)

    return restore


@contextlib.contextmanager
def keep_randomness() -> Iterator[None]:
    """What is drawn within the block is as if it had not been drawn."""
    restore = remember_randomness()
    try:
        yield
    finally:
        restore()
