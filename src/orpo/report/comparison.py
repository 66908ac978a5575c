"""The page of `orpo compare`: what the runs decide, in words first, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from orpo.experiments.comparison import Claim, ComparisonResult, MethodResult
from orpo.report.comparison_figures import BUDGETS, comparison_figures, told_as
from orpo.report.page import Page, Passage, told
from orpo.report.values import as_number, as_percent
from orpo.runs import short_name

_OUTCOMES = {
    "reproduced": "reproduced",
    "not reproduced": "not reproduced",
    "undecided": "left undecided",
}


def comparison_page(r: ComparisonResult) -> Page:
    """The page of a comparison; one that is not finished says so."""
    budgets = [name for name in BUDGETS if name in r.budgets]
    budget = budgets[0] if budgets else ""
    claims = [one for one in r.claims if one.budget in {"", budget}]
    counts = {word: sum(one.verdict == word for one in claims) for word in _OUTCOMES}
    rates, measure = _rates(r)
    return told(
        "comparison",
        partial(comparison_figures, r, budgets),
        dict(_settings(r)),
        _passages(r),
        r=r,
        at=BUDGETS,
        told_as=told_as,
        budgets=budgets,
        budget=budget,
        shares=list(_shares([row for row in r.table if row.budget in {"", budget}])),
        against=[
            ("in correct answers " if "answers" in one.name else "") + one.evidence
            for one in claims
            if one.name in ("orpo_accuracy_over_sft", "orpo_answers_over_sft")
        ],
        total=sum(counts.values()),
        counted=[
            f"{n} {'is' if n == 1 else 'are'} {_OUTCOMES[word]}" for word, n in counts.items() if n
        ],
        first={one.name: one for one in reversed(r.claims)},
        failed=_failed(r.claims),
        rates=rates,
        measure=measure,
        model=short_name(r.model) or "–",
        data=short_name(r.dataset) or "–",
        scored=r.table[0].pairs if r.table else None,
        left_out=_left_out(r),
    )


def _failed(claims: Sequence[Claim]) -> dict[tuple[str, str], list[str]]:
    """(verdict, claim) of each that does not hold -> what was found, at either budget."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in claims:
        if one.verdict in ("not reproduced", "undecided"):
            where = f" at {BUDGETS[one.budget]}" if one.budget in BUDGETS else ""
            found.setdefault((one.verdict, one.claim), []).append(f"{one.evidence}{where}")
    return found


def _shares(table: Sequence[MethodResult]) -> Iterator[str]:
    """ORPO on 93.1 % of the held-out pairs, then the other methods, the base model last."""
    if len(table) < 2:
        return
    for row in [*table[1:], table[0]]:
        if row.preference_accuracy:
            of = " of the held-out pairs" * (row is table[1])
            yield f"{told_as(row.method)} on {as_percent(row.preference_accuracy.value)}{of}"


def _left_out(r: ComparisonResult) -> list[str]:
    found = [f"{reason}: {n}" for reason, n in (r.held_out.get("dropped") or {}).items()]
    only = r.held_out.get("nll_only")
    return [*found, *([f"no rejected answer: {only:.0f}"] if only else [])]


def _rates(r: ComparisonResult) -> tuple[list[str], str]:
    """Whether another learning rate of the grid did better than the one used; by which measure."""
    said, what = [], ""
    for objective, rate in r.learning_rates.items():
        own = [
            cell
            for cell in r.sensitivity
            if cell.objective == objective and cell.orpo_alpha in {None, r.orpo_alpha}
        ]
        checked = all(cell.correct_answers for cell in own)
        name = "correct_answers" if checked else "preference_accuracy"
        scores = {cell.learning_rate: getattr(cell, name) or 0.0 for cell in own}
        if rate not in scores or len(scores) < 2:
            continue
        what = "correct answers" if checked else "preference accuracy"
        best = max(scores, key=lambda one: scores[one])
        used = f"{told_as(objective)}'s {as_number(rate)}"
        if scores[best] > scores[rate]:
            reached = f"{as_number(best)} reached {as_percent(scores[best])}"
            said.append(f"{used} reached {as_percent(scores[rate])}, {reached}")
        else:
            said.append(f"{used} was the best of its row")
    return said, what


def _passages(r: ComparisonResult) -> Iterator[Passage]:
    for example in r.examples.examples:
        parts = [("Prompt", example.prompt)]
        for one in example.answers:
            reason = f" ({one.reason})" if one.reason else ""
            mark = {None: "", True: " ✓", False: f" ✗{reason}"}[one.correct]
            parts.append((f"{told_as(one.name)}{mark}", one.answer or ""))
        yield Passage(example.prompt.split("\n", 1)[0], parts)


def _settings(r: ComparisonResult) -> Iterator[tuple[str, str]]:
    yield "command", r.command
    for name, rate in r.learning_rates.items():
        yield f"learning rate of {told_as(name)}", as_number(rate)
    yield "orpo_alpha", as_number(r.orpo_alpha)
    yield "dpo_beta", as_number(r.dpo_beta)
    for run in r.runs:
        yield run.name, "\n".join(run.commands)
    yield from r.versions.items()
