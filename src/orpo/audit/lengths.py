"""What lengths say: do they tell the chosen answer, what would a limit do, what does an epoch cost.

Pairs are tokenised without a limit. What a limit would do follows from three lengths and from how
much both answers share at their beginning, by the rules of `orpo.data.lengths`; so every limit can
be tried after one pass.
"""

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orpo.audit.findings import RULES, Bias, Check, Finding, Histogram, Limit, grade, worst
from orpo.data.lengths import MIN_ANSWER_ROOM, LengthPolicy
from orpo.data.types import Ledger, TokenizedPair

_RATIOS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, math.inf)
_SURE = 1.96
_LOWEST = 8
_LIMITS = (128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384, 32768)
_PADDED_BATCH = 4
_TOO_LONG = ("too_long", "prompt_too_long", "identical_after_truncation")

Numbers = NDArray[np.int64]


class Lengths(Check):
    """Lengths of prompts and answers, and what they say about the preferences."""

    name = "length_bias"

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit
        self._prompt, self._chosen, self._rejected = array("i"), array("i"), array("i")

    def keep(self, prompt: int, chosen: int, rejected: int | None) -> None:
        """Keep a pair's lengths; `rejected` is None where there is no rejected answer."""
        self._prompt.append(prompt)
        self._chosen.append(chosen)
        self._rejected.append(-1 if rejected is None else rejected)

    def histograms(self) -> dict[str, Histogram]:
        """The lengths of each part, on common ranges that widen as lengths grow."""
        prompt, chosen, rejected = map(np.asarray, (self._prompt, self._chosen, self._rejected))
        parts = {"prompt": prompt, "chosen": chosen, "rejected": rejected[rejected >= 0]}
        largest = max((int(part.max()) for part in parts.values() if len(part)), default=0)
        edges, step = [0], _LOWEST  # 0, 8, 12, 16, 24, 32, 48, ... up to more than the largest
        while edges[-1] <= largest:
            edges += [step, step + step // 2]
            step *= 2
        counts = {name: np.histogram(lengths, edges)[0].tolist() for name, lengths in parts.items()}
        borders = tuple(map(float, edges))
        return {name: Histogram(borders, tuple(each)) for name, each in counts.items()}

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
        which = "longer" if share >= 0.5 else "shorter"
        self.of, self.count = unequal, max(wins, unequal - wins)
        # By the share that the bias has at least, as far as so many pairs can tell.
        sure = _lower_bound(self.share, unequal) if unequal else 0.0
        return self.outcome(
            {"longer_chosen": share, "auc": auc, "equal_length": pairs - unequal},
            {"which": which, "most": max(share, 1 - share), "unit": self.unit},
            verdict=grade(sure, self.rule["look"], self.rule["stop"]),
        )

    def _unequal(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
        """Longer and shorter length, and whether the longer is chosen, where they differ."""
        chosen, rejected = np.asarray(self._chosen), np.asarray(self._rejected)
        differ = (rejected >= 0) & (chosen != rejected)
        chosen, rejected = chosen[differ], rejected[differ]
        return np.maximum(chosen, rejected), np.minimum(chosen, rejected), chosen > rejected


def _lower_bound(share: float, count: int) -> float:
    """The lower end of Wilson's 95 % interval."""
    z2 = _SURE**2 / count
    spread = _SURE * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return (share + z2 / 2 - spread) / (1 + z2)


@dataclass(frozen=True)
class Outcome:
    """What one limit does to every pair: arrays over pairs, tokens of each part afterwards."""

    prompt: Numbers
    chosen: Numbers
    rejected: Numbers
    cut: NDArray[np.bool_]  # anything was shortened, of a pair that is kept
    dropped: NDArray[np.bool_]

    @property
    def lost(self) -> tuple[int, int]:
        """How many pairs are cut, and how many are dropped."""
        return int(self.cut.sum()), int(self.dropped.sum())


class TokenCounts:
    """Tokens of every pair: prompt, chosen, rejected, and what the answers share at the start."""

    def __init__(self) -> None:
        self._values = array("i")

    def add(self, pair: TokenizedPair) -> None:
        """Keep the lengths of a pair that was tokenised without a limit."""
        parts = pair.prompt_ids, pair.chosen_ids, pair.rejected_ids
        self._values.extend((*map(len, parts), pair.common))

    def __len__(self) -> int:
        return len(self._values) // 4

    @property
    def table(self) -> Numbers:
        """(pairs, 4)."""
        return np.asarray(self._values, dtype=np.int64).reshape(-1, 4)

    def outcome(self, policy: LengthPolicy) -> Outcome:
        """What `policy.fit` would do to each pair."""
        prompt, chosen, rejected, shared = self.table.T
        answer, endless = np.maximum(chosen, rejected), np.iinfo(np.int64).max
        limit = endless if policy.max_length is None else policy.max_length
        most = endless if policy.max_prompt_length is None else policy.max_prompt_length
        fits = (prompt + answer <= limit) & (prompt <= most)
        if policy.truncation in ("drop", "error"):
            return Outcome(prompt, chosen, rejected, np.zeros_like(fits), ~fits)
        if policy.truncation == "truncate_answer":
            kept, dropped = prompt, ~fits & (prompt > most)
        else:
            room = np.maximum(limit - answer, limit // 2)
            room = room if policy.max_prompt_length is None else np.full_like(prompt, most)
            kept = np.where(fits, prompt, np.minimum(prompt, room))
            dropped = np.zeros_like(fits)
        left = limit - kept
        over = ~fits & (kept + answer > limit)
        # Answers that are the same as far as they are kept: nothing is left to prefer.
        same = (rejected > 0) & (left <= shared)
        dropped = dropped | (over & ((left < MIN_ANSWER_ROOM) | same))
        after = [np.where(over, np.minimum(part, left), part) for part in (chosen, rejected)]
        cut = (kept < prompt) | (after[0] < chosen) | (after[1] < rejected)
        return Outcome(kept, after[0], after[1], cut & ~dropped, dropped)

    def limits(self, policy: LengthPolicy) -> tuple[Limit, ...]:
        """What limits around the given one would do, up to the first that changes nothing."""
        found: list[Limit] = []
        for limit in sorted({*_LIMITS, *([policy.max_length] if policy.max_length else [])}):
            tried = LengthPolicy(limit, policy.max_prompt_length, policy.truncation)
            lost = self.outcome(tried).lost
            found.append(Limit(limit, *lost))
            if not any(lost) and limit >= (policy.max_length or 0):
                break
        return tuple(found)

    def finding(self, policy: LengthPolicy) -> Finding:
        """What the given limit does."""
        longest = self.table[:, 0] + self.table[:, 1:3].max(axis=1)
        enough = int(np.quantile(longest, 0.99)) if len(self) else 0
        words = {"limit": str(policy.max_length), "enough": str(enough)}
        figures = {"fits_99_percent": enough}
        return _truncated(RULES["truncation"], len(self), self.outcome(policy).lost, words, figures)

    def budget(self, policy: LengthPolicy) -> dict[str, float]:
        """Sums over an epoch at the given limit.

        `tokens_per_epoch` counts both sequences, each with its prompt; `positions_per_epoch` is
        what the shared engine computes (what both sequences begin with, once), and
        `padded_positions_per_epoch` what batches of four in the order of the data take, padded.
        `longest_positions` is the most that a single pair takes.
        """
        of = self.outcome(policy)
        kept = ~of.dropped
        prompt, chosen, rejected = (part[kept] for part in (of.prompt, of.chosen, of.rejected))
        shared = np.minimum(self.table[kept, 3], np.minimum(chosen, rejected))
        positions = prompt + chosen + rejected - shared
        longest = prompt + np.maximum(chosen, rejected)
        batches = [longest[i : i + _PADDED_BATCH] for i in range(0, len(longest), _PADDED_BATCH)]
        sums = {
            "pairs": len(prompt),
            "prompt_tokens": prompt.sum(),
            "chosen_tokens": chosen.sum(),
            "rejected_tokens": rejected.sum(),
            "nll_tokens": (prompt + chosen - 1).sum(),
            "tokens_per_epoch": (np.where(rejected > 0, 2, 1) * prompt + chosen + rejected).sum(),
            "positions_per_epoch": positions.sum(),
            "padded_positions_per_epoch": sum(2 * len(b) * int(b.max()) for b in batches),
            "longest_positions": positions.max(initial=0),
        }
        return {name: float(value) for name, value in sums.items()}


def truncation_of(ledger: Ledger) -> Finding:
    """What max_length did, by the account of a data set that is tokenised already."""
    dropped = sum(ledger.dropped[reason] for reason in _TOO_LONG)
    cut, pairs = max(ledger.cut.values(), default=0), ledger.kept + dropped
    told = ", ".join(f"the {part} of {n:,}" for part, n in ledger.cut.items()) or "none"
    return _truncated(RULES["truncation"]["known"], pairs, (cut, dropped), {"told": told}, {})


def _truncated(
    rule: Mapping[str, Any],
    pairs: int,
    lost: tuple[int, int],
    told: Mapping[str, str],
    figures: Mapping[str, float],
) -> Finding:
    """The finding about pairs that were cut, and those that were dropped."""
    check, counts = Check("truncation"), dict(zip(("cut", "dropped"), lost, strict=True))
    check.of, check.count = pairs, sum(lost)
    verdict = worst(*(grade(n / max(1, pairs), *check.rule[what]) for what, n in counts.items()))
    check.rule = {**check.rule, **rule}
    return check.outcome({**counts, **figures}, {**counts, **told}, verdict=verdict)
