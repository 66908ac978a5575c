"""What a limit on the number of tokens would do, and what an epoch costs.

Pairs are tokenised without a limit. What a limit would do follows from three lengths and from how
much both answers share at their beginning, by the rules of `orpo.data.lengths`; so every limit can
be tried after one pass.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orpo.audit.findings import Finding, Limit, amount, grade, percent
from orpo.data.lengths import MIN_ANSWER_ROOM, LengthPolicy
from orpo.data.types import TokenizedPair

__all__ = ["CUT_LOOK", "CUT_STOP", "DROPPED_LOOK", "DROPPED_STOP", "Outcome", "TokenCounts"]

CUT_LOOK = 0.05
"""A cut answer has lost its ending; a few in a hundred do no harm."""

CUT_STOP = 0.50
"""Where half of the answers have no ending, a model is not taught how to end one."""

DROPPED_LOOK = 0.01
"""Long prompts are dropped first, so what is lost is not a fair sample."""

DROPPED_STOP = 0.20
"""A fifth of the data gone: max_length does not fit these data."""

_LIMITS = (128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384, 32768)
_PADDED_BATCH = 4

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """What one limit does to every pair; arrays over pairs.

    Attributes:
        prompt: Tokens of the prompt afterwards.
        chosen: Tokens of the chosen answer afterwards.
        rejected: Tokens of the rejected answer afterwards.
        cut: Whether anything was shortened, of a pair that is kept.
        dropped: Whether the pair is dropped.
    """

    prompt: Numbers
    chosen: Numbers
    rejected: Numbers
    cut: NDArray[np.bool_]
    dropped: NDArray[np.bool_]


class TokenCounts:
    """Tokens of every pair: prompt, chosen, rejected, and what the answers share at the start."""

    def __init__(self) -> None:
        self._values = array("i")

    def add(self, pair: TokenizedPair) -> None:
        """Keep the lengths of a pair that was tokenised without a limit."""
        prompt, chosen, rejected = pair.prompt_ids, pair.chosen_ids, pair.rejected_ids
        self._values.extend((len(prompt), len(chosen), len(rejected), pair.common))

    def __len__(self) -> int:
        return len(self._values) // 4

    @property
    def table(self) -> Numbers:
        """(pairs, 4)."""
        return np.asarray(self._values, dtype=np.int64).reshape(-1, 4)

    def outcome(self, policy: LengthPolicy) -> Outcome:
        """What `policy.fit` would do to each pair."""
        prompt, chosen, rejected, shared = self.table.T
        answer = np.maximum(chosen, rejected)
        limit = np.iinfo(np.int64).max if policy.max_length is None else policy.max_length
        most = np.iinfo(np.int64).max
        most = most if policy.max_prompt_length is None else policy.max_prompt_length
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
        tried = sorted({*_LIMITS, *([policy.max_length] if policy.max_length else [])})
        found: list[Limit] = []
        for limit in tried:
            of = self.outcome(LengthPolicy(limit, policy.max_prompt_length, policy.truncation))
            cut, dropped = int(of.cut.sum()), int(of.dropped.sum())
            found.append(Limit(limit, cut, dropped))
            if not cut and not dropped and limit >= (policy.max_length or 0):
                break
        return tuple(found)

    def finding(self, policy: LengthPolicy) -> Finding:
        """What the given limit does."""
        of, pairs = self.outcome(policy), len(self)
        cut, dropped = int(of.cut.sum()), int(of.dropped.sum())
        verdicts = (
            grade(cut / max(1, pairs), CUT_LOOK, CUT_STOP),
            grade(dropped / max(1, pairs), DROPPED_LOOK, DROPPED_STOP),
        )
        verdict = next((v for v in ("stop", "look") if v in verdicts), "ok")
        longest = self.table[:, 0] + self.table[:, 1:3].max(axis=1)
        says = (
            f"At max_length={policy.max_length} {amount(cut, 'pair')} of {pairs:,} are cut and "
            f"{dropped:,} are dropped as too long ({percent((cut + dropped) / max(1, pairs))})."
        )
        enough = int(np.quantile(longest, 0.99)) if pairs else 0
        return Finding(
            "truncation",
            "Cut and dropped by max_length",
            verdict,
            cut + dropped,
            pairs,
            says if cut + dropped else f"Every pair fits into max_length={policy.max_length}.",
            "" if verdict == "ok" else f"99 % of the pairs fit into --max_length {enough}.",
            (),
            {"cut": float(cut), "dropped": float(dropped), "fits_99_percent": float(enough)},
        )

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
        both = np.where(rejected > 0, 2, 1)
        longest = prompt + np.maximum(chosen, rejected)
        batches = [longest[i : i + _PADDED_BATCH] for i in range(0, len(longest), _PADDED_BATCH)]
        sums = {
            "pairs": len(prompt),
            "prompt_tokens": prompt.sum(),
            "chosen_tokens": chosen.sum(),
            "rejected_tokens": rejected.sum(),
            "nll_tokens": (prompt + chosen - 1).sum(),
            "tokens_per_epoch": (both * prompt + chosen + rejected).sum(),
            "positions_per_epoch": (prompt + chosen + rejected - shared).sum(),
            "padded_positions_per_epoch": sum(2 * len(b) * int(b.max()) for b in batches),
            "longest_positions": (prompt + chosen + rejected - shared).max(initial=0),
        }
        return {name: float(value) for name, value in sums.items()}
