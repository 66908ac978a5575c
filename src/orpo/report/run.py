"""The page of a run: what was gained, how it went, what went in and what it cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orpo.report.curves import run_figures, trend_told
from orpo.report.diagnosis import diagnose, observed, summary
from orpo.report.measures import breakdowns, changes, compared, counts, side
from orpo.report.page import Headline, Page, Words
from orpo.report.samples import read_failures, read_samples
from orpo.report.series import Curves, Progress, Series, progress, read_curves
from orpo.report.values import (
    as_count,
    count,
    entries,
    mapping,
    number,
    records,
    sentence,
    shortened,
    visible,
)
from orpo.runs.files import AUDIT, RECIPE, Run, short_name
from orpo.runs.reading import read_object

_LONGEST = 400
_SPACE = "\u00a0"
_HEADLINES = ("preference_accuracy", "rewards/accuracies", "correct_answers")


@dataclass(frozen=True)
class Drop:
    """Rows that were dropped for one reason, with the first places to look."""

    reason: str
    count: int
    places: list[str]


@dataclass(frozen=True)
class Dataset:
    """What became of the rows of one data set; `cut` says of how many pairs something was cut."""

    name: str
    format: str
    rows_in: int
    kept: int
    dropped: list[Drop]
    cut: str

    @property
    def adds_up(self) -> bool:
        """Whether every row that was read is kept or dropped."""
        return self.rows_in == self.kept + sum(drop.count for drop in self.dropped)


def run_page(run: Run) -> Page:
    """The page of a run; the same run gives the same page."""
    curves, table, state = read_curves(run.metrics), changes(run), progress(run)
    found = diagnose(observed(run, curves))
    look = [one for one in found if one.verdict == "look"]
    words = _words(run, curves, state, summary(found) if look else "")
    facts = mapping(run.recipe.get("_run"))
    return Page(
        kicker="ORPO run",
        title=shortened(str(run.recipe.get("run_name") or run.path.resolve().name), 120),
        verdict=words["verdict"],
        remarks=words.all("remarks"),
        headlines=[
            Headline(
                one.label,
                one.after,
                f"{one.change}, 95 % interval {one.interval}" if one.interval else "",
                one.verdict,
                one.before,
                one.bar,
            )
            for one in table
            if one.name in _HEADLINES and one.bar
        ],
        facts=[(label, shortened(value, 200)) for label, value in words.facts()],
        figures=run_figures(curves),
        settings=[(k, _setting(v)) for k, v in mapping(run.recipe).items() if k != "_run"],
        more={
            "changes": table,
            "has_intervals": any(one.interval for one in table),
            "counts": counts(run),
            "breakdowns": breakdowns(run),
            "summary": summary(found),
            "look": look,
            "rest": [one for one in found if one.verdict != "look"],
            "samples": read_samples(run),
            "failures": read_failures(run),
            "datasets": datasets(run),
            "data_findings": _data_findings(run),
            "costs": costs(run),
            "notes": [shortened(str(note), _LONGEST) for note in entries(facts.get("notes"))],
            "events": [
                (str(one.get("step", "")), _told(str(one.get("message", "")))) for one in run.events
            ],
            "versions": {name: str(v) for name, v in mapping(facts.get("versions")).items()},
            "recipe": RECIPE,
        },
        template="run.html.jinja",
    )


def _told(message: str) -> str:
    return sentence(shortened(visible(message), _LONGEST))


def _words(run: Run, curves: Curves, state: Progress, diagnosis: str) -> Words:
    shares = compared(run)
    told = side(run, "after").get("verdict")
    tested = next(
        (one for one in curves.held_out.get("rewards/accuracies", []) if one.points), None
    )
    recipe, facts = run.recipe, mapping(run.recipe.get("_run"))
    times = (number(mapping(line).get("train_runtime")) for line in reversed(run.metrics))
    return Words(
        "run",
        model=short_name(recipe.get("model")),
        data=_data(run),
        alpha=number(recipe.get("orpo_alpha")),
        beta=number(recipe.get("orpo_beta")),
        took=next((time for time in times if time is not None and 0 <= time < 1e9), None),
        parameters=_parameters(facts),
        engine=str(facts.get("engine") or ""),
        curves=curves,
        state=state,
        told=told.strip() if isinstance(told, str) else "",
        shares=shares,
        measured=[one for one in shares if one.after is not None],
        answered=[one for one in shares if one.unit == "prompt" and one.after is not None],
        evaluated=bool(side(run, "after")),
        tested=tested,
        pairs=_size(run, tested) if tested else None,
        diagnosis=diagnosis,
        went=trend_told,
    )


def _size(run: Run, series: Series) -> int | None:
    """Pairs in an evaluation set, from the data account."""
    name = f"eval_dataset[{series.source}]" if series.source else "eval_dataset"
    accounts = mapping(mapping(run.recipe.get("_run")).get("data"))
    return count(mapping(accounts.get(name)).get("kept"))


def datasets(run: Run) -> list[Dataset]:
    """The accounts of all data sets of the run."""
    accounts = mapping(mapping(run.recipe.get("_run")).get("data"))
    return [_dataset(name, mapping(one)) for name, one in accounts.items()]


def _dataset(name: str, account: Mapping[str, Any]) -> Dataset:
    examples = mapping(account.get("dropped_examples"))
    dropped = [
        Drop(reason, n, [_place(mapping(one)) for one in entries(examples.get(reason))])
        for reason, value in mapping(account.get("dropped")).items()
        if (n := count(value))
    ]
    cut = {part: n for part, value in mapping(account.get("cut")).items() if (n := count(value))}
    return Dataset(
        name,
        ", ".join(str(account[key]) for key in ("format", "rendering") if account.get(key)),
        count(account.get("rows_in")) or 0,
        count(account.get("kept")) or 0,
        sorted(dropped, key=lambda drop: -drop.count),
        ", ".join(f"{part} in {as_count(n, 'pair')}" for part, n in cut.items()),
    )


def _place(example: Mapping[str, Any]) -> str:
    parts = [str(example[key]) for key in ("where", "detail") if example.get(key)]
    return shortened(": ".join(parts), _LONGEST)


def _data_findings(run: Run) -> list[dict[str, Any]]:
    """What the audit found worth a look, the worst first, if the run folder has one."""
    try:
        found = records(mapping(read_object(run.path / AUDIT)).get("findings"))
    except (OSError, ValueError):
        return []
    keys = ("title", "says", "do")
    return [
        {key: shortened(str(one.get(key) or ""), 600) for key in keys}
        | {key: count(one.get(key)) or 0 for key in ("count", "of")}
        for verdict in ("stop", "look")
        for one in found
        if one.get("verdict") == verdict
    ]


def _data(run: Run) -> str:
    named = run.recipe.get("dataset")
    name = " + ".join(map(short_name, named if isinstance(named, list) else [named]))
    kept = [one.kept for one in datasets(run) if one.name == "train_dataset"]
    pairs = as_count(kept[0], "pair") if kept and kept[0] else ""
    return f"{name} ({pairs})" if name and pairs else name or pairs


def _parameters(facts: Mapping[str, Any]) -> str:
    total, trained = count(facts.get("parameters")), count(facts.get("trainable_parameters"))
    if not total:
        return ""
    if trained is None or trained == total:
        return _short(total)
    return f"{_short(total)}, {_short(trained)} trained"


def _short(amount: float, units: str = "kMB", space: str = " ") -> str:
    """135 M: three digits and a unit."""
    power = min(len(units), max(0, int(math.log10(amount) // 3))) if amount >= 1 else 0
    return f"{amount / 1000**power:.3g}{space}{units[power - 1] if power else ''}".rstrip(" ")


def _setting(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return shortened(str(value), _LONGEST)
    return shortened(json.dumps(value, ensure_ascii=False, default=str), _LONGEST)


def costs(run: Run) -> list[tuple[str, str]]:
    """What the run cost: time, counted work, memory; only what was recorded."""
    lines = records(run.metrics)
    totals: dict[str, Any] = next((one for one in lines[::-1] if "train_runtime" in one), {})
    try:
        work = mapping(read_object(run.path / "work.json"))
    except (OSError, ValueError):
        work = {}
    names = ("peak_bytes", "peak_memory_bytes")
    peaks = (_usable(place.get(name)) for place in (totals, work) for name in names)
    speeds = sorted(filter(None, (_usable(one.get("tokens_per_second")) for one in lines)))
    counted = ("pairs", "positions_trained", "positions_scored")
    words = Words(
        "run",
        seconds=_usable(totals.get("train_runtime")),
        flops=_usable(work.get("flops")),
        estimate=_usable(totals.get("total_flos")),
        passes=_usable(work.get("passes_per_pair")),
        speed=round(speeds[len(speeds) // 2]) if speeds else None,
        peak=next(filter(None, peaks), None),
        ranks=count(mapping(run.recipe.get("_run")).get("world_size")),
        short=lambda value: _short(value, "kMGTPE", _SPACE),
        **{name: count(work.get(name)) for name in counted},
    )
    return [(label, value) for label, value in words.lines("costs") if value]


def _usable(value: object) -> float | None:
    """A number that something can have taken."""
    found = number(value)
    return found if found is not None and math.isfinite(found) and 0 < found < 1e40 else None
