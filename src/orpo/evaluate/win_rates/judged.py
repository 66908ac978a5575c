"""Judged pairs of answers, and what they say together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orpo.evaluate.intervals import mean_interval
from orpo.evaluate.judge.fences import excerpt
from orpo.evaluate.judge.pair_result import PairVerdict
from orpo.evaluate.judge.pairwise import Comparison
from orpo.evaluate.win_rates.controlled import length_controlled_win_rate
from orpo.evaluate.win_rates.plain import in_percent, win_rate
from orpo.evaluate.win_rates.types import Columns, WinRate

__all__ = ["JudgedPair", "rated", "summary", "suspicious"]

_EXAMPLES = 3
_LONGEST = 4000
_BINS = 5
_SIDES = ("baseline", "model")


@dataclass(frozen=True)
class JudgedPair:
    """A prompt, the answers of both models, and what the judge preferred.

    Attributes:
        index: Of the prompt; the instruction's number in AlpacaEval.
        prompt: As text; empty where it is not known.
        baseline: The baseline's answer; empty where it is not known.
        answer: The model's.
        lengths: Of both, in characters.
        preference: As judged, from 0 (baseline) to 1 (model); None is no verdict.
        flags: What is suspicious about the baseline's answer, and about the model's; it changes
            no preference.
        reasons: What the judge wrote.
        category: Such as the data set that the prompt comes from, or nothing.
        id: The question's, where the index is none that a reader could look for.
    """

    index: Any
    prompt: str
    baseline: str
    answer: str
    lengths: tuple[int, int]
    preference: float | None
    flags: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    reasons: tuple[str, ...] = ()
    category: str = ""
    id: str = ""

    @classmethod
    def of(
        cls, item: Comparison, verdict: PairVerdict, *, index: Any, prompt: str, category: str
    ) -> JudgedPair:
        """What a judge said about two answers, the first of them the baseline's."""
        return cls(
            index=index,
            prompt=prompt,
            baseline=item.first,
            answer=item.second,
            lengths=verdict.lengths,
            preference=verdict.preference,
            flags=verdict.flags,
            reasons=verdict.reasons,
            category=category,
            id=item.id,
        )

    @property
    def flagged(self) -> bool:
        """Whether one of the answers is suspicious."""
        return any(self.flags)


def rated(
    pairs: Sequence[JudgedPair],
    *,
    difficulty: Any = None,
    gamed: Columns | None = None,
    length_control: bool = True,
) -> WinRate:
    """The win rate of judged pairs; see `length_controlled_win_rate`.

    Args:
        pairs: At least one with a verdict.
        difficulty: Of each prompt, or None.
        gamed: Regularisation rows, or None.
        length_control: Also the length-controlled win rate.
    """
    preference = [None if pair.preference is None else 1 + pair.preference for pair in pairs]
    if not length_control:
        return win_rate(preference, [pair.index for pair in pairs])
    columns = {
        "index": [pair.index for pair in pairs],
        "preference": preference,
        "len_output_1": [pair.lengths[0] for pair in pairs],
        "len_output_2": [pair.lengths[1] for pair in pairs],
    }
    return length_controlled_win_rate(columns, difficulty=difficulty, gamed=gamed)


def suspicious(pairs: Sequence[JudgedPair], **settings: Any) -> dict[str, Any] | None:
    """Which pairs are suspicious, and the win rate without them, for JSON; None if none is.

    Args:
        pairs: All of them.
        settings: As for `rated`.
    """
    rest = [pair for pair in pairs if not pair.flagged]
    if len(rest) == len(pairs):
        return None
    some = any(pair.preference is not None for pair in rest)
    return {
        "pairs": len(pairs) - len(rest),
        **{name: sum(bool(pair.flags[side]) for pair in pairs) for side, name in enumerate(_SIDES)},
        "rows": [
            {
                "index": pair.index if isinstance(pair.index, int) else pair.id,
                "side": name,
                "flags": list(pair.flags[side]),
                "preference": pair.preference,
                "excerpt": excerpt((pair.baseline, pair.answer)[side]),
            }
            for pair in pairs
            for side, name in enumerate(_SIDES)
            if pair.flags[side]
        ],
        "without": rated(rest, **settings).as_dict() if some else None,
    }


def summary(pairs: Sequence[JudgedPair]) -> dict[str, Any]:
    """What goes with the win rate, for JSON: lengths, groups, flags and examples."""
    return {
        "mean_length": {
            "baseline": float(np.mean([pair.lengths[0] for pair in pairs])),
            "model": float(np.mean([pair.lengths[1] for pair in pairs])),
        },
        "by_length": _by_length(pairs),
        "by_category": _by_category(pairs),
        "flags": {
            name: dict(Counter(flag for pair in pairs for flag in pair.flags[side]))
            for side, name in enumerate(_SIDES)
        },
        "examples": _examples(pairs),
    }


def _by_length(pairs: Sequence[JudgedPair]) -> list[dict[str, Any]]:
    """The win rate in fifths of the difference in length, model minus baseline."""
    known = [pair for pair in pairs if pair.preference is not None]
    known.sort(key=lambda pair: pair.lengths[1] - pair.lengths[0])
    places = np.array_split(np.arange(len(known)), min(_BINS, max(1, len(known) // 10)))
    groups = [[known[place] for place in part] for part in places if len(part)]
    return [
        {
            "low": group[0].lengths[1] - group[0].lengths[0],
            "high": group[-1].lengths[1] - group[-1].lengths[0],
            "mean": float(np.mean([pair.lengths[1] - pair.lengths[0] for pair in group])),
            **_rate(group),
        }
        for group in groups
    ]


def _by_category(pairs: Sequence[JudgedPair]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[JudgedPair]] = {}
    for pair in pairs:
        if pair.category and pair.preference is not None:
            groups.setdefault(pair.category, []).append(pair)
    return {name: _rate(group) for name, group in sorted(groups.items())}


def _rate(group: Sequence[JudgedPair]) -> dict[str, Any]:
    values = [float(pair.preference or 0.0) for pair in group]
    interval = mean_interval(values, [pair.index for pair in group], share=True)
    return {"n": len(group), "win_rate": in_percent(interval).as_dict()}


def _examples(pairs: Sequence[JudgedPair]) -> list[Mapping[str, Any]]:
    """The clearest wins and losses, of equally clear ones the first; and the first flagged ones."""
    fair = [p for p in pairs if p.answer and not p.flagged and p.preference is not None]
    wins = sorted((p for p in fair if _value(p) > 0.5), key=lambda p: -_value(p))[:_EXAMPLES]
    losses = sorted((p for p in fair if _value(p) < 0.5), key=_value)[:_EXAMPLES]
    flagged = [p for p in pairs if p.flagged][:_EXAMPLES]
    chosen = {"win": wins, "loss": losses, "flagged": flagged}
    return [_example(kind, pair) for kind, found in chosen.items() for pair in found]


def _value(pair: JudgedPair) -> float:
    return float(pair.preference or 0.0)


def _example(kind: str, pair: JudgedPair) -> Mapping[str, Any]:
    return {
        "kind": kind,
        "prompt": pair.prompt[:_LONGEST],
        "baseline": pair.baseline[:_LONGEST],
        "model": pair.answer[:_LONGEST],
        "preference": pair.preference,
        "lengths": list(pair.lengths),
        "flags_baseline": list(pair.flags[0]),
        "flags_model": list(pair.flags[1]),
        "reasons": [reason[:_LONGEST] for reason in pair.reasons],
    }
