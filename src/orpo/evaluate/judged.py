"""Judged pairs of answers, and what they say together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from orpo.evaluate import results
from orpo.evaluate.intervals import mean_interval
from orpo.evaluate.judge.fences import excerpt
from orpo.evaluate.judge.pairwise import Comparison, compare_pairs
from orpo.evaluate.settings import JudgeSettings
from orpo.evaluate.win_rates import Columns, in_percent, length_controlled_win_rate, win_rate
from orpo.runs.files import write_jsonl
from orpo.terminal import Say

_EXAMPLES = 3
_LONGEST = 4000  # characters of an example
_BINS = 5
_SIDES = ("baseline", "model")
_OF_EXAMPLE = [one.name for one in fields(results.Example) if one.name != "kind"]


@dataclass(frozen=True)
class JudgedPair:
    """A prompt, the answers of both models, and what the judge preferred."""

    index: Any  # of the prompt; the instruction's number in AlpacaEval
    prompt: str  # this and both answers are empty where they are not known
    baseline: str
    model: str
    lengths: tuple[int, int]  # in characters
    preference: float | None  # as judged, from 0 (baseline) to 1 (model); None is no verdict
    flags_baseline: tuple[str, ...] = ()  # what is suspicious; it changes no preference
    flags_model: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()  # what the judge wrote
    category: str = ""
    id: str = ""  # the question's, where the index is none that a reader could look for

    @property
    def flags(self) -> tuple[str, ...]:
        """Of both answers."""
        return self.flags_baseline + self.flags_model

    @property
    def value(self) -> float:
        """The preference; 0 where there is none."""
        return float(self.preference or 0.0)


@dataclass(frozen=True)
class LengthControl:
    """What the length-controlled win rate is fitted with; prompts of one's own have nothing."""

    difficulty: Any = None
    gamed: Columns | None = None


def judge_pairs(
    judge: JudgeSettings,
    items: Sequence[Comparison],
    known: Sequence[tuple[Any, str, str]],
    say: Say,
) -> tuple[list[JudgedPair], results.PairJudge]:
    """Let the judge compare the baseline's answers (first) with the model's, in both orders.

    `known` is (index, prompt as text, category) of each pair.
    """
    found = compare_pairs(judge, items, say)
    pairs = [
        JudgedPair(
            *(index, prompt, item.first, item.second, verdict.lengths, verdict.preference),
            *(*verdict.flags, verdict.reasons, category, item.id),
        )
        for item, verdict, (index, prompt, category) in zip(items, found.items, known, strict=True)
    ]
    about = results.PairJudge(
        judge={**found.settings.as_dict(), "reported": list(found.reported)},
        trust=found.trust,
        bias=found.bias,
        verdicts=found.counts,
        bounds=found.bounds,
        cost=found.spend,
        remarks=tuple(line for line in found.remarks() if line != found.suspicion),
    )
    return pairs, about


def write_judgments(path: Path, pairs: Sequence[JudgedPair]) -> None:
    """A line for each pair."""
    names = ("index", "preference", "lengths", "flags_baseline", "flags_model", "reasons")
    write_jsonl(path, [{name: getattr(pair, name) for name in names} for pair in pairs])


def rates_of(pairs: Sequence[JudgedPair], control: LengthControl | None) -> results.JudgedRates:
    """What pairs, of which at least one has a verdict, say together; without control as judged."""
    return results.JudgedRates(
        win_rate=_rated(pairs, control),
        suspicious=_suspicious(pairs, control),
        mean_length={
            name: float(np.mean([pair.lengths[side] for pair in pairs]))
            for side, name in enumerate(_SIDES)
        },
        by_length=_by_length(pairs),
        by_category=_by_category(pairs),
        flags={
            name: dict(Counter(flag for pair in pairs for flag in getattr(pair, f"flags_{name}")))
            for name in _SIDES
        },
        examples=_examples(pairs),
    )


def _rated(pairs: Sequence[JudgedPair], control: LengthControl | None) -> results.WinRate:
    preference = [None if pair.preference is None else 1 + pair.preference for pair in pairs]
    index = [pair.index for pair in pairs]
    if control is None:
        return win_rate(preference, index)
    first, second = zip(*(pair.lengths for pair in pairs), strict=True)
    columns = {"index": index, "preference": preference}
    columns |= {"len_output_1": [*first], "len_output_2": [*second]}
    return length_controlled_win_rate(columns, difficulty=control.difficulty, gamed=control.gamed)


def _suspicious(
    pairs: Sequence[JudgedPair], control: LengthControl | None
) -> results.Suspicious | None:
    """Which pairs are suspicious, and the win rate without them; None if none is."""
    rest = [pair for pair in pairs if not pair.flags]
    if len(rest) == len(pairs):
        return None
    rows = tuple(
        results.SuspiciousRow(
            index=pair.index if isinstance(pair.index, int) else pair.id,
            side=name,
            flags=flags,
            preference=pair.preference,
            excerpt=excerpt(getattr(pair, name)),
        )
        for pair in pairs
        for name in _SIDES
        if (flags := getattr(pair, f"flags_{name}"))
    )
    baseline, model = (sum(row.side == name for row in rows) for name in _SIDES)
    some = any(pair.preference is not None for pair in rest)
    without = _rated(rest, control) if some else None
    return results.Suspicious(len(pairs) - len(rest), baseline, model, rows, without)


def _by_length(pairs: Sequence[JudgedPair]) -> tuple[results.LengthRate, ...]:
    """The win rate in fifths of the difference in length, model minus baseline."""
    known = [(p.lengths[1] - p.lengths[0], p) for p in pairs if p.preference is not None]
    known.sort(key=lambda one: one[0])
    places = np.array_split(np.arange(len(known)), min(_BINS, max(1, len(known) // 10)))
    groups = [[known[place] for place in part] for part in places if len(part)]
    return tuple(
        results.LengthRate(
            **vars(_rate([pair for _, pair in group])),
            low=group[0][0],
            high=group[-1][0],
            mean=float(np.mean([difference for difference, _ in group])),
        )
        for group in groups
    )


def _by_category(pairs: Sequence[JudgedPair]) -> dict[str, results.GroupRate]:
    groups: dict[str, list[JudgedPair]] = {}
    for pair in pairs:
        if pair.category and pair.preference is not None:
            groups.setdefault(pair.category, []).append(pair)
    return {name: _rate(group) for name, group in sorted(groups.items())}


def _rate(group: Sequence[JudgedPair]) -> results.GroupRate:
    values, prompts = [pair.value for pair in group], [pair.index for pair in group]
    return results.GroupRate(len(group), in_percent(mean_interval(values, prompts, share=True)))


def _examples(pairs: Sequence[JudgedPair]) -> tuple[results.Example, ...]:
    """The clearest wins and losses, of equally clear ones the first; and the first flagged ones."""
    fair = [p for p in pairs if p.model and not p.flags and p.preference is not None]
    chosen = {
        "win": sorted((p for p in fair if p.value > 0.5), key=lambda p: -p.value),
        "loss": sorted((p for p in fair if p.value < 0.5), key=lambda p: p.value),
        "flagged": [p for p in pairs if p.flags],
    }
    return tuple(
        results.Example(kind, **{name: _shown(getattr(pair, name)) for name in _OF_EXAMPLE})
        for kind, found in chosen.items()
        for pair in found[:_EXAMPLES]
    )


def _shown(value: Any) -> Any:
    """The beginning of a text, or of each of several; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(map(_shown, value))
    return value[:_LONGEST] if isinstance(value, str) else value
