"""Judged pairs of answers, and what they say together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orpo.evaluate.intervals import mean_interval
from orpo.evaluate.judge.fences import excerpt
from orpo.evaluate.judge.pairwise import Comparison, compare_pairs
from orpo.evaluate.results import (
    Example,
    GroupRate,
    JudgedRates,
    LengthRate,
    PairJudge,
    Suspicious,
    SuspiciousRow,
    WinRate,
)
from orpo.evaluate.settings import JudgeSettings
from orpo.evaluate.win_rates.rates import (
    Columns,
    in_percent,
    length_controlled_win_rate,
    win_rate,
)
from orpo.runs.files import write_jsonl

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

    @property
    def flagged(self) -> bool:
        """Whether one of the answers is suspicious."""
        return any(self.flags)


@dataclass(frozen=True)
class LengthControl:
    """What the length-controlled win rate is fitted with; prompts of one's own have nothing."""

    difficulty: Any = None
    gamed: Columns | None = None


def judge_pairs(
    judge: JudgeSettings,
    items: Sequence[Comparison],
    known: Sequence[tuple[Any, str, str]],
    say: Callable[[str], None],
) -> tuple[list[JudgedPair], PairJudge]:
    """Let the judge compare the baseline's answers (first) with the model's, in both orders.

    Args:
        judge: Who is asked.
        items: The pairs.
        known: (index, prompt as text, category) of each.
        say: Told, line by line, what happens.
    """
    result = compare_pairs(judge, items, say)
    pairs = [
        JudgedPair(
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
        for item, verdict, (index, prompt, category) in zip(items, result.items, known, strict=True)
    ]
    about = PairJudge(
        judge={**result.settings.as_dict(), "reported": list(result.reported)},
        trust=result.trust,
        bias=result.bias,
        verdicts=result.counts,
        bounds=result.bounds,
        cost=result.spend,
        remarks=tuple(line for line in result.remarks() if line != result.suspicion),
    )
    return pairs, about


def write_judgments(path: Path, pairs: Sequence[JudgedPair]) -> None:
    """A line for each pair."""
    lines = [
        {
            "index": pair.index,
            "preference": pair.preference,
            "lengths": list(pair.lengths),
            "flags_baseline": list(pair.flags[0]),
            "flags_model": list(pair.flags[1]),
            "reasons": list(pair.reasons),
        }
        for pair in pairs
    ]
    write_jsonl(path, lines)


def rates_of(pairs: Sequence[JudgedPair], control: LengthControl | None) -> JudgedRates:
    """What pairs, of which at least one has a verdict, say together.

    Args:
        pairs: All of them.
        control: None leaves out the length-controlled win rate.
    """
    return JudgedRates(
        win_rate=_rated(pairs, control),
        suspicious=_suspicious(pairs, control),
        mean_length={
            name: float(np.mean([pair.lengths[side] for pair in pairs]))
            for side, name in enumerate(_SIDES)
        },
        by_length=_by_length(pairs),
        by_category=_by_category(pairs),
        flags={
            name: dict(Counter(flag for pair in pairs for flag in pair.flags[side]))
            for side, name in enumerate(_SIDES)
        },
        examples=_examples(pairs),
    )


def _rated(pairs: Sequence[JudgedPair], control: LengthControl | None) -> WinRate:
    preference = [None if pair.preference is None else 1 + pair.preference for pair in pairs]
    index = [pair.index for pair in pairs]
    if control is None:
        return win_rate(preference, index)
    columns = {
        "index": index,
        "preference": preference,
        "len_output_1": [pair.lengths[0] for pair in pairs],
        "len_output_2": [pair.lengths[1] for pair in pairs],
    }
    return length_controlled_win_rate(columns, difficulty=control.difficulty, gamed=control.gamed)


def _suspicious(pairs: Sequence[JudgedPair], control: LengthControl | None) -> Suspicious | None:
    """Which pairs are suspicious, and the win rate without them; None if none is."""
    rest = [pair for pair in pairs if not pair.flagged]
    if len(rest) == len(pairs):
        return None
    some = any(pair.preference is not None for pair in rest)
    baseline, model = (sum(bool(pair.flags[side]) for pair in pairs) for side in (0, 1))
    rows = tuple(
        SuspiciousRow(
            index=pair.index if isinstance(pair.index, int) else pair.id,
            side=name,
            flags=pair.flags[side],
            preference=pair.preference,
            excerpt=excerpt((pair.baseline, pair.answer)[side]),
        )
        for pair in pairs
        for side, name in enumerate(_SIDES)
        if pair.flags[side]
    )
    without = _rated(rest, control) if some else None
    return Suspicious(len(pairs) - len(rest), baseline, model, rows, without)


def _by_length(pairs: Sequence[JudgedPair]) -> tuple[LengthRate, ...]:
    """The win rate in fifths of the difference in length, model minus baseline."""
    known = [(p.lengths[1] - p.lengths[0], p) for p in pairs if p.preference is not None]
    known.sort(key=lambda one: one[0])
    places = np.array_split(np.arange(len(known)), min(_BINS, max(1, len(known) // 10)))
    groups = [[known[place] for place in part] for part in places if len(part)]
    return tuple(
        LengthRate(
            **vars(_rate([pair for _, pair in group])),
            low=group[0][0],
            high=group[-1][0],
            mean=float(np.mean([difference for difference, _ in group])),
        )
        for group in groups
    )


def _by_category(pairs: Sequence[JudgedPair]) -> dict[str, GroupRate]:
    groups: dict[str, list[JudgedPair]] = {}
    for pair in pairs:
        if pair.category and pair.preference is not None:
            groups.setdefault(pair.category, []).append(pair)
    return {name: _rate(group) for name, group in sorted(groups.items())}


def _rate(group: Sequence[JudgedPair]) -> GroupRate:
    interval = mean_interval(
        [_value(pair) for pair in group], [pair.index for pair in group], share=True
    )
    return GroupRate(len(group), in_percent(interval))


def _examples(pairs: Sequence[JudgedPair]) -> tuple[Example, ...]:
    """The clearest wins and losses, of equally clear ones the first; and the first flagged ones."""
    fair = [p for p in pairs if p.answer and not p.flagged and p.preference is not None]
    chosen = {
        "win": sorted((p for p in fair if _value(p) > 0.5), key=lambda p: -_value(p)),
        "loss": sorted((p for p in fair if _value(p) < 0.5), key=_value),
        "flagged": [p for p in pairs if p.flagged],
    }
    return tuple(
        Example(
            kind=kind,
            prompt=pair.prompt[:_LONGEST],
            baseline=pair.baseline[:_LONGEST],
            model=pair.answer[:_LONGEST],
            preference=pair.preference,
            lengths=pair.lengths,
            flags_baseline=pair.flags[0],
            flags_model=pair.flags[1],
            reasons=tuple(reason[:_LONGEST] for reason in pair.reasons),
        )
        for kind, found in chosen.items()
        for pair in found[:_EXAMPLES]
    )


def _value(pair: JudgedPair) -> float:
    return float(pair.preference or 0.0)
