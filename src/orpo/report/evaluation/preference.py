"""The page of an evaluation on held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.report.evaluation.preference_figures import accuracy_figure, odds_figure, sure_figure
from orpo.report.evaluation.types import Figure, Headline, Page, Passage, Table
from orpo.report.values import (
    as_count,
    as_percent,
    joined,
    mapping,
    number,
    records,
    sentence,
    whole,
)

__all__ = ["build_page"]

_LABELS = {
    "preference_accuracy": "Prefers the chosen answer",
    "logps/margin": "Log-probability per token, chosen less rejected",
    "log_odds_chosen": "Log odds ratio, mean",
    "logps/chosen": "Log-probability per token, chosen",
    "logps/rejected": "Log-probability per token, rejected",
}
_SHARES = {"preference_accuracy"}
_OF_GROUPS = ("preference_accuracy", "log_odds_chosen")


def build_page(evaluation: Mapping[str, Any], folder: Path) -> Page:
    """The page of what `orpo evaluate preference` found.

    Args:
        evaluation: What stands in evaluation.json.
        folder: Where that is; named in messages.

    Raises:
        DataError: The evaluation is not finished.
    """
    found = mapping(evaluation.get("results"))
    after, before = mapping(found.get("after")), mapping(found.get("before"))
    if not mapping(after.get("intervals")):
        raise DataError(
            "the evaluation is not finished", where=str(folder), fix="Run the same command again."
        )
    settings = mapping(evaluation.get("settings"))
    return Page(
        kicker="Held-out preferences",
        title=_short(settings.get("model")),
        verdict=sentence(str(after.get("verdict", ""))),
        remarks=tuple(_remarks(evaluation, after)),
        headlines=tuple(_headlines(after)),
        facts=tuple(_facts(evaluation)),
        figures=tuple(_figures(evaluation, before, after)),
        tables=tuple(_tables(before, after)),
        passages=tuple(_passage(one) for one in records(evaluation.get("worst"))),
        passages_note="The pairs whose rejected answer it prefers most strongly, by log odds.",
        settings=tuple((name, str(value)) for name, value in settings.items()),
    )


def _short(name: object) -> str:
    return str(name or "a model").rstrip("/").rsplit("/", 1)[-1] or "a model"


def _remarks(evaluation: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    words = [str(mapping(after.get("calibration")).get("words", ""))]
    notes = evaluation.get("notes")
    words += [str(note) for note in notes] if isinstance(notes, list) else []
    return [sentence(line) for line in words if line]


def _headlines(after: Mapping[str, Any]) -> list[Headline]:
    intervals, changes = mapping(after.get("intervals")), mapping(after.get("changes"))
    shown = [
        Headline(
            _LABELS[name],
            _value(name, mapping(intervals.get(name))),
            f"95 % interval {_range(name, mapping(intervals.get(name)))}",
            _tone(mapping(changes.get(name)).get("verdict")),
        )
        for name in _OF_GROUPS
        if mapping(intervals.get(name))
    ]
    change = mapping(changes.get("preference_accuracy"))
    if change:
        value = 100 * (number(change.get("value")) or 0.0)
        ends = " to ".join(_points(change.get(end)) for end in ("low", "high"))
        tone = _tone(change.get("verdict"))
        points = Headline("Change", f"{_signed(value)} pp", f"95 % interval {ends}", tone)
        shown.insert(1, points)
    calibration = mapping(after.get("calibration"))
    if calibration:
        chance = _decimals(number(calibration.get("ece_by_chance")))
        error = _decimals(number(calibration.get("ece")))
        shown.append(Headline("Calibration error", error, f"chance alone gives up to {chance}"))
    return shown


def _facts(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    account, settings = mapping(evaluation.get("account")), mapping(evaluation.get("settings"))
    models = {moment: mapping(one) for moment, one in mapping(evaluation.get("models")).items()}
    facts = [
        ("Model", str(settings.get("model", ""))),
        ("Compared with", str(models["before"].get("name", "")) if "before" in models else "–"),
        ("Held-out data", str(settings.get("dataset", ""))),
        ("Rows", _account(account)),
    ]
    facts += [
        (f"Calibration before and after: {label}", joined(values))
        for label, values in _calibrations(evaluation).items()
    ]
    versions = mapping(evaluation.get("versions")).items()
    facts.append(("Versions", ", ".join(f"{name} {value}" for name, value in versions)))
    return facts


def _calibrations(evaluation: Mapping[str, Any]) -> dict[str, list[str]]:
    results = mapping(evaluation.get("results"))
    if "before" not in results:
        return {}
    both = [mapping(mapping(results.get(m)).get("calibration")) for m in ("before", "after")]
    labels = {"ece": "error (ECE)", "brier": "Brier score"}
    return {
        label: [_decimals(number(one.get(name))) for one in both] for name, label in labels.items()
    }


def _account(account: Mapping[str, Any]) -> str:
    rows_in, pairs = whole(account.get("rows_in")) or 0, whole(account.get("pairs")) or 0
    parts = [f"{as_count(rows_in, 'row')}: {as_count(pairs, 'pair')} scored"]
    reasons = {str(k): whole(v) for k, v in mapping(account.get("dropped")).items()}
    reasons |= {name: whole(account.get(name)) for name in ("without_rejected", "not_finite")}
    parts += [f"{n:,} {name.replace('_', ' ')}" for name, n in reasons.items() if n]
    cut = {str(k): whole(v) for k, v in mapping(account.get("cut")).items()}
    parts += [f"{part} cut in {n:,}" for part, n in cut.items() if n]
    return "; ".join(parts)


def _figures(
    evaluation: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[Figure]:
    figures = [accuracy_figure(before, after), sure_figure(before, after)]
    figures.append(odds_figure(mapping(evaluation.get("distribution"))))
    return [one for one in figures if one is not None]


def _tables(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Table]:
    names = [name for name in _LABELS if mapping(after["intervals"]).get(name)]
    changes = mapping(after.get("changes"))
    columns = ("", *(("Before",) if before else ()), "After", *_changed(before))
    rows = [
        (
            _LABELS[name],
            *((_cell(name, mapping(before.get("intervals")).get(name)),) if before else ()),
            _cell(name, mapping(after["intervals"]).get(name)),
            *(_change_cells(name, changes.get(name)) if before else ()),
        )
        for name in names
    ]
    note = "In brackets the 95 % interval, over prompts: equal prompts count as one."
    return [Table("All pairs", columns, tuple(rows), note), *_of_groups(before, after)]


def _of_groups(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Table]:
    name, tables = "preference_accuracy", []
    for kind, groups in mapping(after.get("groups")).items():
        changes = mapping(mapping(after.get("changes_by")).get(kind))
        olds = mapping(mapping(before.get("groups")).get(kind))
        columns = ("", "Pairs", *(("Before",) if before else ()), "After", *_changed(before))
        rows = [
            (
                group,
                f"{whole(mapping(found).get('n')) or 0:,}",
                *((_cell(name, mapping(olds.get(group)).get(name)),) if before else ()),
                _cell(name, mapping(found).get(name)),
                *(_change_cells(name, mapping(changes.get(group)).get(name)) if before else ()),
            )
            for group, found in mapping(groups).items()
        ]
        tables.append(Table(f"Prefers the chosen answer, by {kind}", columns, tuple(rows)))
    return tables


def _changed(before: Mapping[str, Any]) -> tuple[str, ...]:
    return ("Change", "Verdict") if before else ()


def _change_cells(name: str, change: object) -> tuple[str, str]:
    found = mapping(change)
    if not found:
        return "–", "–"
    shown = _points if name in _SHARES else _difference
    ends = " to ".join(shown(found.get(end)) for end in ("low", "high"))
    pairs = whole(found.get("pairs_needed"))
    needed = f"; {pairs:,} pairs would show it" if pairs else ""
    return f"{shown(found.get('value'))} ({ends})", f"{found.get('verdict', '')}{needed}"


def _cell(name: str, interval: object) -> str:
    found = mapping(interval)
    return f"{_value(name, found)} ({_range(name, found)})" if found else "–"


def _value(name: str, interval: Mapping[str, Any]) -> str:
    value = number(interval.get("value"))
    return as_percent(value) if name in _SHARES else _decimals(value)


def _range(name: str, interval: Mapping[str, Any]) -> str:
    low, high = (number(interval.get(end)) for end in ("low", "high"))
    if name not in _SHARES:
        return f"{_decimals(low)} to {_decimals(high)}"
    return " to ".join("not known" if one is None else f"{100 * one:.1f}" for one in (low, high))


def _decimals(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}".replace("-", "−")


def _points(value: object) -> str:
    found = number(value)
    return "not known" if found is None else _signed(100 * found)


def _difference(value: object) -> str:
    found = number(value)
    return "not known" if found is None else f"{found:+.3f}".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _tone(verdict: object) -> str:
    return str(verdict) if verdict in {"better", "worse"} else ""


def _passage(one: Mapping[str, Any]) -> Passage:
    odds, old = number(one.get("log_odds")), number(one.get("log_odds_before"))
    words = f"log odds ratio {_decimals(odds)}"
    words += f", before {_decimals(old)}" if old is not None else ""
    parts = tuple(
        (label, str(one.get(name, "")))
        for name, label in (
            ("prompt", "Prompt"),
            ("chosen", "Chosen"),
            ("rejected", "Rejected, and preferred"),
        )
        if name in one
    )
    tags = tuple(str(value) for value in mapping(one.get("groups")).values())
    place = one.get("where") or f"row {one.get('row', '?')}"
    return Passage(f"{place}: {words}", parts, tags)
