"""Random choices that come out the same on every Python version and platform.

`random.Random.random` is the only method whose sequence Python guarantees for a seed, so every
choice here is built on it alone.
"""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def digest(text: str) -> int:
    """Return a stable 64-bit number for `text`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class Draw:
    """A seeded source of choices."""

    def __init__(self, seed: str) -> None:
        """Start the sequence that belongs to `seed`."""
        self._random = random.Random(digest(seed))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self._random.random() < probability

    def number(self, low: int, high: int) -> int:
        """Return a whole number between `low` and `high`, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        """Return one of `options`, all equally likely."""
        return options[self.number(0, len(options) - 1)]

    def weighted(self, options: Sequence[T], weights: Sequence[float]) -> T:
        """Return one of `options` with probability in proportion to its weight."""
        point = self._random.random() * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            point -= weight
            if point < 0:
                return option
        return options[-1]

    def distinct(self, options: Sequence[T], count: int) -> list[T]:
        """Return `count` different members of `options` in random order."""
        pool = list(options)
        return [pool.pop(self.number(0, len(pool) - 1)) for _ in range(count)]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in random order."""
        return self.distinct(items, len(items))
