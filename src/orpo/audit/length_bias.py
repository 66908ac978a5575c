"""Whether length alone tells which answer is the chosen one."""

from __future__ import annotations

import math
from array import array
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from orpo.audit.findings import Bias, Finding, Histogram, amount, percent

__all__ = ["BIAS_LOOK", "BIAS_STOP", "Lengths"]

BIAS_LOOK = 0.60
"""Better answers are often a little longer: 55 to 60 % is usual in honest data. Beyond that, a
model learns to write long."""

BIAS_STOP = 0.85
"""Length alone tells the chosen answer nearly always: the data teach length first of all."""

_RATIOS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, math.inf)
_SURE = 1.96
_LOWEST = 8


class Lengths:
    """Lengths of prompts and answers, and what they say about the preferences."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._prompt, self._chosen, self._rejected = array("i"), array("i"), array("i")

    def add(self, prompt: int, chosen: int, rejected: int | None) -> None:
        """Keep a pair's lengths; `rejected` is None where there is no rejected answer."""
        self._prompt.append(prompt)
        self._chosen.append(chosen)
        self._rejected.append(-1 if rejected is None else rejected)

    def histograms(self) -> dict[str, Histogram]:
        """The lengths of each part, on common ranges that widen as lengths grow."""
        parts = {
            "prompt": np.asarray(self._prompt),
            "chosen": np.asarray(self._chosen),
            "rejected": np.asarray(self._rejected)[np.asarray(self._rejected) >= 0],
        }
        edges = _edges(max((int(p.max()) for p in parts.values() if len(p)), default=0))
        return {
            name: Histogram(
                tuple(map(float, edges)), tuple(np.histogram(lengths, edges)[0].tolist())
            )
            for name, lengths in parts.items()
        }

    def curve(self) -> tuple[Bias, ...]:
        """How often the longer answer is chosen, by how much longer it is."""
        longer, shorter, chosen_longer = self._unequal()
        ratio = longer / np.maximum(shorter, 1)
        found = []
        for low, high in pairwise(_RATIOS):
            within = (ratio >= low) & (ratio < high)
            share = float(chosen_longer[within].mean()) if within.any() else None
            top = high if math.isfinite(high) else None
            found.append(Bias(low, top, int(within.sum()), share))
        return tuple(found)

    def finding(self) -> Finding:
        """How much length alone says."""
        _, _, chosen_longer = self._unequal()
        unequal, wins = len(chosen_longer), int(chosen_longer.sum())
        pairs = int((np.asarray(self._rejected) >= 0).sum())
        share = wins / unequal if unequal else 0.5
        # The chance that the chosen answer is the longer one, where equal lengths are half a win.
        auc = (wins + (pairs - unequal) / 2) / pairs if pairs else 0.5
        verdict = _verdict(wins, unequal)
        which = "longer" if share >= 0.5 else "shorter"
        says = (
            f"The {which} answer is chosen in {percent(max(share, 1 - share))} of "
            f"{amount(unequal, 'pair')} whose answers differ in length (in {self._unit}; "
            f"AUC of length alone {auc:.2f}, where 0.5 is no bias)."
        )
        return Finding(
            "length_bias",
            "Length bias",
            verdict,
            max(wins, unequal - wins),
            unequal,
            says if unequal else "No two answers differ in length.",
            ""
            if verdict == "ok"
            else f"The model will learn to write {which} answers. Balance the data by length "
            "(orpo data fix --balance length), or ask annotators to judge content.",
            (),
            {"longer_chosen": share, "auc": auc, "equal_length": float(pairs - unequal)},
        )

    def _unequal(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
        """Longer and shorter length, and whether the longer is chosen, where they differ."""
        chosen, rejected = np.asarray(self._chosen), np.asarray(self._rejected)
        differ = (rejected >= 0) & (chosen != rejected)
        chosen, rejected = chosen[differ], rejected[differ]
        return np.maximum(chosen, rejected), np.minimum(chosen, rejected), chosen > rejected


def _verdict(wins: int, pairs: int) -> str:
    """By the share that the bias has at least, as far as so many pairs can tell."""
    if pairs == 0:
        return "ok"
    share = max(wins, pairs - wins) / pairs
    sure = _lower_bound(share, pairs)
    if sure >= BIAS_STOP:
        return "stop"
    return "look" if sure >= BIAS_LOOK else "ok"


def _lower_bound(share: float, count: int) -> float:
    """The lower end of Wilson's 95 % interval."""
    z2 = _SURE**2 / count
    spread = _SURE * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return (share + z2 / 2 - spread) / (1 + z2)


def _edges(largest: int) -> NDArray[np.int64]:
    """0, 8, 12, 16, 24, 32, 48, ... up to more than the largest length."""
    edges, step = [0], _LOWEST
    while edges[-1] <= largest:
        edges.extend([step, step + step // 2])
        step *= 2
    return np.array(edges)
