"""The page of `orpo compare`: what the runs decide, in words first, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from orpo.evaluate.intervals import Interval
from orpo.experiments.comparison import Cell, Claim, ComparisonResult, MethodResult
from orpo.report.comparison_figures import BUDGETS, comparison_figures, told_as
from orpo.report.page import Headline, Page, Passage, Table, Words
from orpo.report.values import (
    as_number,
    as_percent,
    minus,
    sentence,
    signed,
    thousands,
)
from orpo.runs import short_name

_MIB = 2**20
_CLAIMS = {
    "orpo_accuracy_over_sft": "Preference accuracy, ORPO − SFT",
    "orpo_answers_over_sft": "Correct answers, ORPO − SFT",
    "orpo_judged_over_sft": "Preferred by the judge, ORPO − SFT",
    "orpo_accuracy_over_sft_dpo": "Preference accuracy, ORPO − SFT+DPO",
}
_SHARES = {
    "preference_accuracy": "Prefers the chosen answer",
    "correct_answers": "Correct answers",
    "judged": "Judge: over the base model",
}
_OUTCOMES = {
    "reproduced": "reproduced",
    "not reproduced": "not reproduced",
    "undecided": "left undecided",
}


def comparison_page(r: ComparisonResult) -> Page:
    """The page of a comparison; one that is not finished says so."""
    budgets = [name for name in BUDGETS if name in r.budgets]
    words = _words(r, budgets[0] if budgets else "")
    return Page(
        kicker="Comparison",
        title=f"ORPO beside SFT and SFT+DPO: {short_name(r.model) or 'a model'}",
        verdict=words["verdict"],
        remarks=words.all("remarks"),
        headlines=tuple(_headlines(r.claims)),
        facts=words.pairs("facts"),
        figures=tuple(comparison_figures(r, budgets, words)),
        tables=tuple(_tables(r, budgets, words)),
        passages=tuple(_passages(r)),
        passages_note=sentence(r.examples.rule) if r.examples.rule else "",
        settings=tuple(_settings(r)),
    )


def _words(r: ComparisonResult, budget: str) -> Words:
    table = _of_budget(r.table, budget)
    claims = [one for one in r.claims if one.budget in {"", budget}]
    counts = {word: sum(one.verdict == word for one in claims) for word in _OUTCOMES}
    failed: dict[tuple[str, str], list[str]] = {}
    for one in r.claims:
        if one.verdict in ("not reproduced", "undecided"):
            where = f" at {BUDGETS[one.budget]}" if one.budget in BUDGETS else ""
            failed.setdefault((one.verdict, one.claim), []).append(f"{one.evidence}{where}")
    rates, measure = _rates(r)
    return Words(
        "comparison",
        r=r,
        at=BUDGETS,
        budget=budget,
        shares=list(_shares(table)),
        against=[
            ("in correct answers " if "answers" in one.name else "") + one.evidence
            for one in claims
            if one.name in ("orpo_accuracy_over_sft", "orpo_answers_over_sft")
        ],
        total=sum(counts.values()),
        counted=[
            f"{n} {'is' if n == 1 else 'are'} {_OUTCOMES[word]}" for word, n in counts.items() if n
        ],
        failed=failed,
        rates=rates,
        measure=measure,
        model=short_name(r.model) or "–",
        data=short_name(r.dataset) or "–",
        scored=r.table[0].pairs if r.table else None,
        left_out=_left_out(r),
    )


def _of_budget(table: Sequence[MethodResult], budget: str) -> list[MethodResult]:
    """The base model's row and those of a budget."""
    return [row for row in table if row.budget in {"", budget}]


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


def _headlines(claims: Sequence[Claim]) -> Iterator[Headline]:
    first = {one.name: one for one in reversed(claims)}
    for one in claims:
        interval = one.interval
        if one.name in _CLAIMS and first[one.name] is one and interval is not None:
            if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
                continue
            tone = "better" if interval.low > 0 else "worse" if interval.high < 0 else ""
            ends = f"{signed(100 * interval.low)} to {signed(100 * interval.high)}"
            value = f"{signed(100 * interval.value)} pp"
            yield Headline(_CLAIMS[one.name], value, f"95 % interval {ends}", tone)


def _tables(r: ComparisonResult, budgets: Sequence[str], words: Words) -> Iterator[Table]:
    if r.claims:
        equal = {"steps": "steps", "flops": "FLOPs"}
        lines = [
            (sentence(one.claim), equal.get(one.budget, "either"), one.verdict, one.figures)
            for one in r.claims
        ]
        columns = ("Claim", "Equal", "Verdict", "Difference (95 % interval)")
        title = "The paper's claims, decided by these runs"
        yield Table(title, columns, lines, words["claims"])
    for budget in budgets:
        of, where = _of_budget(r.table, budget), BUDGETS[budget]
        yield _outcomes(of, where)
        yield _levels(of, where, words["levels"])
        yield _costs(of, where, words["costs"])
    if r.sensitivity:
        yield _cells(r.sensitivity, words["cells"])
    if r.runs:
        yield _runs(r)


def _outcomes(of: Sequence[MethodResult], where: str) -> Table:
    shown = [name for name in _SHARES if name == "preference_accuracy" or _any(of, name)]
    lines = [
        (told_as(row.method), *(share_with_interval(getattr(row, name)) for name in shown))
        for row in of
    ]
    columns = ("Method", *(_SHARES[name] for name in shown))
    note = "Means over seeds and pairs, with 95 % intervals over both."
    return Table(f"Held-out pairs, at {where}", columns, lines, note)


def _any(of: Sequence[MethodResult], name: str) -> bool:
    return any(getattr(row, name) for row in of)


def share_with_interval(one: Interval | None) -> str:
    """93.1 % (90.2 to 95.4)."""
    if one is None:
        return "–"
    if not (math.isfinite(one.low) and math.isfinite(one.high)):
        return as_percent(one.value)
    return f"{as_percent(one.value)} ({100 * one.low:.1f} to {100 * one.high:.1f})"


def _levels(of: Sequence[MethodResult], where: str, note: str) -> Table:
    lines = [
        (
            told_as(row.method),
            _level(row.chosen_logps, row.chosen_logps_change),
            _level(row.rejected_logps, row.rejected_logps_change),
            _level(row.margin, row.margin_change),
        )
        for row in of
    ]
    columns = ("Method", "Chosen", "Rejected", "Chosen − rejected")
    return Table(f"How likely the held-out answers are, at {where}", columns, lines, note)


def _level(one: Interval | None, change: Interval | None) -> str:
    text = "–" if one is None else minus(f"{one.value:.3f}")
    if change is None or not (math.isfinite(change.low) and math.isfinite(change.high)):
        return text
    by, low, high = (signed(end, 2) for end in (change.value, change.low, change.high))
    return f"{text} ({by}, {low} to {high})"


def _costs(of: Sequence[MethodResult], where: str, note: str) -> Table:
    lines = [
        (
            told_as(row.method),
            str(len(cost.stages)),
            " + ".join(as_number(stage.steps) for stage in cost.stages),
            as_number(cost.pairs),
            as_number(cost.forwards),
            thousands(cost.flops / 1e9),
            f"{cost.seconds:.1f} s",
            f"{thousands(cost.peak_bytes / _MIB)} MiB",
            f"{thousands(cost.beyond_idle_bytes / _MIB)} MiB",
        )
        for row in of
        if (cost := row.cost)
    ]
    heads = ("Method", "Stages", "Steps", "Pairs", "Forward passes", "GFLOPs")
    columns = (*heads, "Time", "Peak memory", "Beyond rest")
    return Table(f"What a run cost, at {where}", columns, lines, note)


def _cells(cells: Sequence[Cell], note: str) -> Table:
    lines = [
        (
            f"{told_as(cell.objective)}, {as_number(cell.learning_rate)}",
            as_number(cell.orpo_alpha),
            share_with_interval(cell.preference_accuracy_interval),
            as_percent(cell.correct_answers),
            as_number(cell.margin),
            as_number(cell.rejected_logps),
        )
        for cell in cells
    ]
    columns = ("Objective, learning rate", "λ", "Prefers chosen", "Correct", "Margin", "Rejected")
    return Table("Sensitivity to learning rate and lambda", columns, lines, note)


def _runs(r: ComparisonResult) -> Table:
    lines = [
        (
            run.name,
            as_percent(run.preference_accuracy),
            as_percent(run.correct_answers),
            thousands(sum(cost.flops for cost in run.costs) / 1e9),
            f"{sum(cost.seconds for cost in run.costs):.1f} s",
        )
        for run in r.runs
    ]
    columns = ("Folder", "Prefers chosen", "Correct", "GFLOPs", "Time")
    return Table("Every run", columns, lines, "Each is a run folder with a report of its own.")


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
