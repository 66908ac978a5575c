"""The page of `orpo compare`: what the runs decide, in words first, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orpo.report.evaluation.comparison_figures import comparison_figures
from orpo.report.evaluation.comparison_words import (
    BUDGETS,
    remarks,
    share_with_interval,
    signed,
    told_as,
    verdict,
)
from orpo.report.evaluation.types import Headline, Page, Passage, Table
from orpo.report.values import (
    as_count,
    as_duration,
    as_number,
    as_percent,
    mapping,
    number,
    records,
    rows,
    sentence,
)
from orpo.runs import short_name

__all__ = ["build_page"]

_MIB = 2**20
_EQUAL = {"steps": "steps", "flops": "FLOPs"}
_UNITS = "Log-probabilities are per token, in nats, on the held-out pairs of the table."


def build_page(
    evaluation: Mapping[str, Any],
    folder: Path,  # noqa: ARG001 - what every page takes
) -> Page:
    """The page of a comparison.

    Args:
        evaluation: What stands in evaluation.json; what is missing there is missing here.
        folder: Not needed: everything stands in evaluation.json.
    """
    found = mapping(evaluation)
    budgets = [name for name in BUDGETS if name in rows(found.get("budgets"))]
    return Page(
        kicker="Comparison",
        title=f"ORPO beside SFT and SFT+DPO: {short_name(found.get('model')) or 'a model'}",
        verdict=verdict(found),
        remarks=tuple(remarks(found)),
        headlines=tuple(_headlines(found)),
        facts=tuple(_facts(found)),
        figures=comparison_figures(found),
        tables=tuple(_tables(found, budgets)),
        passages=tuple(_passages(found)),
        passages_note=sentence(str(mapping(found.get("examples")).get("rule", ""))),
        settings=tuple(_settings(found)),
    )


def _headlines(found: dict[str, Any]) -> Iterator[Headline]:
    names = {
        "orpo_accuracy_over_sft": "Preference accuracy, ORPO − SFT",
        "orpo_answers_over_sft": "Correct answers, ORPO − SFT",
        "orpo_judged_over_sft": "Preferred by the judge, ORPO − SFT",
        "orpo_accuracy_over_sft_dpo": "Preference accuracy, ORPO − SFT+DPO",
    }
    for claim in _first_of_each(found):
        interval = mapping(claim.get("interval"))
        value, low, high = (number(interval.get(key)) for key in ("value", "low", "high"))
        label = names.get(str(claim.get("name")))
        if label is None or value is None or low is None or high is None:
            continue
        tone = "better" if low > 0 else "worse" if high < 0 else ""
        ends = f"95 % interval {signed(100 * low)} to {signed(100 * high)}"
        yield Headline(label, f"{signed(100 * value)} pp", ends, tone)


def _first_of_each(found: dict[str, Any]) -> list[dict[str, Any]]:
    kept: dict[str, dict[str, Any]] = {}
    for claim in records(found.get("claims")):
        kept.setdefault(str(claim.get("name")), claim)
    return list(kept.values())


def _facts(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    held_out, machine = mapping(found.get("held_out")), mapping(found.get("machine"))
    base = next(iter(records(found.get("table"))), {})
    yield "Model", short_name(found.get("model")) or "–"
    yield "Training data", short_name(found.get("dataset")) or "–"
    scored, left_out = number(base.get("pairs")), mapping(held_out.get("dropped"))
    if scored is not None:
        read = number(held_out.get("rows_in")) or scored
        dropped = "; ".join(f"{reason}: {count}" for reason, count in left_out.items())
        only = number(held_out.get("nll_only"))
        dropped = "; ".join(filter(None, [dropped, f"no rejected answer: {only:.0f}" * bool(only)]))
        yield (
            "Held-out pairs",
            f"{read:,.0f} read, {scored:,.0f} scored"
            + (f" (left out: {dropped})" if dropped else ""),
        )
    yield "Prompts answered", as_number(number(found.get("answered")))
    yield "Seeds", ", ".join(str(seed) for seed in rows(found.get("seeds"))) or "–"
    steps, batch = number(found.get("steps")), number(found.get("batch"))
    if steps is not None and batch is not None:
        yield "ORPO's run", f"{steps:,.0f} steps of {as_count(batch, 'pair')}"
    if machine:
        at_once, threads = (number(machine.get(name)) or 1 for name in ("at_once", "threads"))
        yield (
            "Machine",
            f"{machine.get('device', '–')}; {as_count(at_once, 'run')} at a time with "
            f"{as_count(threads, 'thread')} each",
        )
    seconds = number(found.get("seconds"))
    if seconds is not None:
        yield "This call took", as_duration(seconds)


def _tables(found: dict[str, Any], budgets: list[str]) -> Iterator[Table]:
    claims = records(found.get("claims"))
    if claims:
        yield Table(
            "The paper's claims, decided by these runs",
            ("Claim", "Equal", "Verdict", "Difference (95 % interval)"),
            tuple(
                (
                    sentence(str(claim.get("claim", ""))),
                    _EQUAL.get(str(claim.get("budget")), "either"),
                    str(claim.get("verdict", "–")),
                    str(claim.get("figures", "–")),
                )
                for claim in claims
            ),
            "Reproduced: the whole 95 % interval, over prompts and seeds, lies on the claim's "
            "side. Not reproduced: it lies on the other. Undecided: it holds zero.",
        )
    for budget in budgets:
        of = [r for r in records(found.get("table")) if r.get("budget") in {"", budget}]
        yield _outcomes(of, budget)
        yield _levels(of, budget)
        yield _costs(of, budget)
    cells = records(found.get("sensitivity"))
    if cells:
        yield _cells(cells)
    yield from _runs(found)


def _outcomes(of: list[dict[str, Any]], budget: str) -> Table:
    judged = any(row.get("judged") for row in of)
    checked = any(row.get("correct_answers") for row in of)
    heads = ["Method", "Prefers the chosen answer"]
    heads += ["Correct answers"] * checked + ["Judge: over the base model"] * judged
    body = []
    for row in of:
        cells = [told_as(row.get("method")), share_with_interval(row.get("preference_accuracy"))]
        cells += [share_with_interval(row.get("correct_answers"))] * checked
        cells += [share_with_interval(row.get("judged"))] * judged
        body.append(tuple(cells))
    return Table(
        f"Held-out pairs, at {BUDGETS[budget]}",
        tuple(heads),
        tuple(body),
        "Means over seeds and pairs, with 95 % intervals over both.",
    )


def _levels(of: list[dict[str, Any]], budget: str) -> Table:
    names = ("chosen_logps", "rejected_logps", "margin")
    return Table(
        f"How likely the held-out answers are, at {BUDGETS[budget]}",
        ("Method", "Chosen", "Rejected", "Chosen − rejected"),
        tuple((told_as(row.get("method")), *(_level(row, name) for name in names)) for row in of),
        f"In brackets the change from the base model, with its 95 % interval. {_UNITS}",
    )


def _level(row: dict[str, Any], name: str) -> str:
    value = number(mapping(row.get(name)).get("value"))
    change = mapping(row.get(f"{name}_change"))
    text = "–" if value is None else f"{value:.3f}".replace("-", "−")
    by, low, high = (number(change.get(key)) for key in ("value", "low", "high"))
    if by is None or low is None or high is None:
        return text
    return f"{text} ({signed(by, 2)}, {signed(low, 2)} to {signed(high, 2)})"


def _costs(of: list[dict[str, Any]], budget: str) -> Table:
    body = []
    for row in of:
        cost = mapping(row.get("cost"))
        if not cost:
            continue
        stages = records(cost.get("stages"))
        steps = " + ".join(as_number(number(stage.get("steps"))) for stage in stages)
        peak, beyond = (number(cost.get(key)) for key in ("peak_bytes", "beyond_idle_bytes"))
        flops, seconds = number(cost.get("flops")), number(cost.get("seconds"))
        body.append(
            (
                told_as(row.get("method")),
                str(len(stages)),
                steps,
                as_number(number(cost.get("pairs"))),
                as_number(number(cost.get("forwards"))),
                "–" if flops is None else f"{flops / 1e9:,.0f}",
                "–" if seconds is None else f"{seconds:.1f} s",
                "–" if peak is None else f"{peak / _MIB:,.0f} MiB",
                "–" if beyond is None else f"{beyond / _MIB:,.0f} MiB",
            )
        )
    heads = ("Method", "Stages", "Steps", "Pairs", "Forward passes", "GFLOPs")
    return Table(
        f"What a run cost, at {BUDGETS[budget]}",
        (*heads, "Time", "Peak memory", "Beyond rest"),
        tuple(body),
        "Counted and measured in each run's own process, means over seeds. A forward pass is one "
        "answer with its prompt; DPO's reference counts, evaluations do not. Time is that of "
        "training; memory is the most that any stage held, and what of it came on top of the "
        "process with its model loaded.",
    )


def _cells(cells: list[dict[str, Any]]) -> Table:
    body = tuple(
        (
            f"{told_as(cell.get('objective'))}, {as_number(number(cell.get('learning_rate')))}",
            as_number(number(cell.get("orpo_alpha"))),
            share_with_interval(cell.get("preference_accuracy_interval")),
            as_percent(number(cell.get("correct_answers"))),
            as_number(number(cell.get("margin"))),
            as_number(number(cell.get("rejected_logps"))),
        )
        for cell in cells
    )
    steps = number(mapping(cells[0].get("cost")).get("steps")) or 0
    return Table(
        "Sensitivity to learning rate and lambda",
        ("Objective, learning rate", "λ", "Prefers chosen", "Correct", "Margin", "Rejected"),
        body,
        f"Runs of {as_count(steps, 'step')} with one seed, tested on held-out pairs that the "
        "tables above do not use. DPO's start from SFT's run in the middle.",
    )


def _runs(found: dict[str, Any]) -> Iterator[Table]:
    runs = records(found.get("runs"))
    if not runs:
        return
    body = []
    for run in runs:
        costs = records(run.get("costs"))
        numbers = [[number(cost.get(key)) or 0 for cost in costs] for key in ("flops", "seconds")]
        body.append(
            (
                str(run.get("name", "–")),
                as_percent(number(run.get("preference_accuracy"))),
                as_percent(number(run.get("correct_answers"))),
                f"{sum(numbers[0]) / 1e9:,.0f}",
                f"{sum(numbers[1]):.1f} s",
            )
        )
    yield Table(
        "Every run",
        ("Folder", "Prefers chosen", "Correct", "GFLOPs", "Time"),
        tuple(body),
        "Each is a run folder with a report of its own.",
    )


def _passages(found: dict[str, Any]) -> Iterator[Passage]:
    for example in records(mapping(found.get("examples")).get("examples")):
        prompt = str(example.get("prompt", ""))
        parts = [("Prompt", prompt)]
        for one in records(example.get("answers")):
            word = one.get("correct")
            reason = f" ({one.get('reason')})" if one.get("reason") and not word else ""
            mark = "" if word is None else " ✓" if word else f" ✗{reason}"
            parts.append((f"{told_as(one.get('name'))}{mark}", str(one.get("answer") or "")))
        yield Passage(prompt.split("\n", 1)[0], tuple(parts))


def _settings(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "command", str(found.get("command", "orpo compare"))
    for name, rate in mapping(found.get("learning_rates")).items():
        yield f"learning rate of {told_as(name)}", as_number(number(rate))
    for name in ("orpo_alpha", "dpo_beta"):
        yield name, as_number(number(found.get(name)))
    for run in records(found.get("runs")):
        yield str(run.get("name")), "\n".join(str(line) for line in rows(run.get("commands")))
    for name, version in mapping(found.get("versions")).items():
        yield name, str(version)
