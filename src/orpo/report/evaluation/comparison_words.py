"""A comparison in words: the verdict, and what has to be said beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orpo.report.values import (
    as_count,
    as_number,
    as_percent,
    joined,
    mapping,
    number,
    records,
    rows,
    sentence,
)

__all__ = ["BUDGETS", "remarks", "share_with_interval", "signed", "told_as", "verdict"]

BUDGETS = {"steps": "equal optimizer steps", "flops": "equal FLOPs"}
_NAMES = {
    "base": "the base model",
    "orpo": "ORPO",
    "sft": "SFT",
    "sft+dpo": "SFT+DPO",
    "dpo": "DPO",
}
_HOLDS, _REFUTED, _OPEN = "reproduced", "not reproduced", "undecided"


def told_as(method: object) -> str:
    """A method's or objective's name for readers."""
    return _NAMES.get(str(method), str(method))


def signed(value: float, decimals: int = 1) -> str:
    """A difference with its sign."""
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return f"{sign}{abs(value):.{decimals}f}"


def share_with_interval(value: object) -> str:
    """93.1 % (90.2 to 95.4)."""
    interval = mapping(value)
    middle, low, high = (number(interval.get(key)) for key in ("value", "low", "high"))
    if middle is None:
        return "–"
    if low is None or high is None:
        return as_percent(middle)
    return f"{as_percent(middle)} ({100 * low:.1f} to {100 * high:.1f})"


def verdict(found: dict[str, Any]) -> str:
    """What came out, in two sentences."""
    budget = next((b for b in BUDGETS if b in rows(found.get("budgets"))), "")
    table = [r for r in records(found.get("table")) if r.get("budget") in {"", budget}]
    shares = [
        f"{told_as(row.get('method'))} on {as_percent(number(accuracy.get('value')))}"
        + " of the held-out pairs" * (row is table[1])
        for row in [*table[1:], *table[:1]]
        if len(table) > 1 and (accuracy := mapping(row.get("preference_accuracy")))
    ]
    if not shares:
        return "The comparison is not finished: the same command goes on with it."
    first = (
        f"At {BUDGETS[budget]} the chosen answer is the more likely one for {joined(shares)}."
        f"{_against_sft(found, budget)}"
    )
    claims = [c for c in records(found.get("claims")) if c.get("budget") in {"", budget}]
    counts = {
        word: sum(claim.get("verdict") == word for claim in claims)
        for word in (_HOLDS, _REFUTED, _OPEN)
    }
    total = sum(counts.values())
    if not total:
        return first
    words = {_HOLDS: "reproduced", _REFUTED: "not reproduced", _OPEN: "left undecided"}
    shown = [
        f"{count} {'is' if count == 1 else 'are'} {words[word]}"
        for word, count in counts.items()
        if count
    ]
    return f"{first} Of {as_count(total, 'claim')} of the paper {joined(shown)} there."


def _against_sft(found: dict[str, Any], budget: str) -> str:
    parts = []
    wanted = {"orpo_accuracy_over_sft": "", "orpo_answers_over_sft": "in correct answers "}
    for claim in records(found.get("claims")):
        name = str(claim.get("name"))
        if name in wanted and claim.get("budget") in {"", budget}:
            parts.append(f"{wanted[name]}{claim.get('evidence')}")
    return f" ORPO against SFT: {joined(parts)}." if parts else ""


def remarks(found: dict[str, Any]) -> Iterator[str]:
    """What is not as the paper says, and what limits these figures."""
    yield from _against_the_paper(found)
    if "sft+dpo" in rows(found.get("methods")):
        yield (
            "SFT+DPO divides its budget between two stages of equally many steps; its DPO starts "
            "from its SFT, whose weights are also the reference; that is asked once, ahead of "
            "DPO's training, so that no second model lies in memory there either."
        )
    seeds = len(rows(found.get("seeds")))
    if seeds == 1:
        yield "One seed: the intervals are over prompts only, and say nothing of other seeds."
    yield from _rates(found)
    judge = mapping(found.get("judge"))
    yield from (sentence(str(line)) for line in rows(judge.get("remarks")))


def _against_the_paper(found: dict[str, Any]) -> Iterator[str]:
    """Each claim that does not hold, once, with what was found at either budget."""
    heads = {_REFUTED: "Not reproduced", _OPEN: "Undecided"}
    said: dict[tuple[str, str], list[str]] = {}
    for claim in records(found.get("claims")):
        word = str(claim.get("verdict"))
        if word not in heads:
            continue
        at = BUDGETS.get(str(claim.get("budget")))
        where = f" at {at}" if at else ""
        key = (heads[word], str(claim.get("claim")))
        said.setdefault(key, []).append(f"{claim.get('evidence')}{where}")
    for (head, claim_in_words), evidence in said.items():
        yield f"{head}: {claim_in_words}. Found: {'; '.join(evidence)}."


def _rates(found: dict[str, Any]) -> Iterator[str]:
    """Whether another learning rate of the grid did better than the one that was used."""
    cells = records(found.get("sensitivity"))
    used = mapping(found.get("learning_rates"))
    alpha = number(found.get("orpo_alpha"))
    said = []
    for objective, rate in used.items():
        own = [
            cell
            for cell in cells
            if cell.get("objective") == objective and cell.get("orpo_alpha") in {None, alpha}
        ]
        name = "correct_answers" if all(number(c.get("correct_answers")) for c in own) else ""
        name = name or "preference_accuracy"
        scores = {number(c.get("learning_rate")): number(c.get(name)) or 0.0 for c in own}
        here = scores.get(number(rate))
        if here is None or len(scores) < 2:
            continue
        best = max(scores, key=lambda one: scores[one])
        what = "correct answers" if name == "correct_answers" else "preference accuracy"
        if scores[best] > here:
            said.append(
                f"{told_as(objective)}'s {as_number(number(rate))} reached {as_percent(here)}, "
                f"{as_number(best)} reached {as_percent(scores[best])}"
            )
        else:
            said.append(f"{told_as(objective)}'s {as_number(number(rate))} was the best of its row")
    if said:
        pairs = number(cells[0].get("pairs")) or 0
        yield (
            f"Learning rates were given, not searched for. In short runs on {pairs:.0f} other "
            f"held-out pairs ({what}): {'; '.join(said)}. Differences of a few points are chance "
            "there."
        )
