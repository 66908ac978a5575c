"""The page of a run: what was gained, how it went, what went in and what it cost."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from orpo.evaluate import verdict as verdicts
from orpo.evaluate.verdict import Verdict
from orpo.quantities import as_count, number
from orpo.report import measures
from orpo.report.curves import run_figures, trend_told
from orpo.report.diagnosis import diagnosis_of
from orpo.report.page import Headline, Page, Words
from orpo.report.series import Curves, curves_of, progress
from orpo.report.values import count, entries, mapping, records, shortened, visible
from orpo.runs.files import AUDIT, RECIPE, Run, short_name
from orpo.runs.reading import read_object

_LONGEST = 400
_SHOWN = {"samples": 20, "failures": 8}
_TURNED = {
    (False, True): "turned from wrong to right",
    (True, False): "turned from right to wrong",
    (True, True): "right both times",
    (False, False): "wrong both times",
}
_HEADLINES = ("preference_accuracy", "rewards/accuracies", "correct_answers")


_AGAIN = 10


def run_page(run: Run, live: int = 0) -> Page:
    """The page of a run; the same run gives the same page, unless it is going on.

    `live` are the steps that it is to take then.
    """
    curves, table, facts = curves_of(run), measures.changes(run), _facts(run)
    verdict = verdicts.verdict(run)
    found = diagnosis_of(run, verdict.word, curves)
    words = _words(run, curves, verdict, found.summary if found.look else "", live)
    more = {
        "good": verdict.good,
        **{"changes": table, "diagnosis": found, "recipe": RECIPE},
        **{"turns": _turns, "tag": _language, "counted": _counted, "places": _places},
        "datasets": {name: mapping(one) for name, one in mapping(facts.get("data")).items()},
        "has_intervals": any(one.interval for one in table),
        "counts": measures.counts(run),
        "breakdowns": measures.breakdowns(run),
        "samples": _samples(run),
        "failures": _samples(run, "failures"),
        "data_findings": _data_findings(run),
        "costs": _costs(run),
        "notes": [shortened(str(note), _LONGEST) for note in entries(facts.get("notes"))],
        "events": [
            (str(one.get("step", "")), shortened(visible(str(one.get("message", ""))), _LONGEST))
            for one in run.events
        ],
        "versions": mapping(facts.get("versions")),
    }
    return Page(
        kicker="ORPO run",
        title=shortened(str(run.recipe.get("run_name") or run.path.resolve().name), 120),
        verdict=words["verdict"],
        **_reasons(verdict) if words["verdict"].startswith(verdict.head) else {},
        remarks=words.all("remarks"),
        headlines=[
            _headline(one, good=verdict.good) for one in table if one.name in _HEADLINES and one.bar
        ],
        facts=[(label, shortened(value, 200)) for label, value in words.facts()],
        figures=run_figures(curves),
        settings=[(k, _setting(v)) for k, v in mapping(run.recipe).items() if k != "_run"],
        more=more,
        template="run.html.jinja",
        again=_AGAIN if live else 0,
    )


def _reasons(verdict: Verdict) -> dict[str, Any]:
    tone = {"ranks better": "better"}.get(verdict.word, verdict.word)
    return {"head": verdict.head, "reasons": verdict.reasons, "tone": tone}


def _headline(one: measures.Change, *, good: bool) -> Headline:
    sure = f"{one.change}, 95 % interval {one.interval}" if one.interval else ""
    tone = one.verdict if good or one.verdict == "worse" else ""
    return Headline(one.label, one.after, sure, tone, one.before, one.bar)


def _facts(run: Run) -> dict[str, Any]:
    """What was found out while running."""
    return mapping(run.recipe.get("_run"))


def _words(run: Run, curves: Curves, found: Verdict, summary: str, live: int) -> Words:
    before, after = (measures.side(run, moment) for moment in ("before", "after"))
    tested = next(
        (one for one in curves.held_out.get("rewards/accuracies", []) if one.points), None
    )
    where = f"eval_dataset[{tested.source}]" if tested and tested.source else "eval_dataset"
    accounts = mapping(_facts(run).get("data"))
    named = run.recipe.get("dataset")
    name = " + ".join(map(short_name, named if isinstance(named, list) else [named]))
    kept = count(mapping(accounts.get("train_dataset")).get("kept"))
    pairs = as_count(kept, "pair") if kept else ""
    times = (number(mapping(line).get("train_runtime")) for line in reversed(run.metrics))
    return Words(
        "run",
        model=short_name(run.recipe.get("model")),
        data=f"{name} ({pairs})" if name and pairs else name or pairs,
        alpha=number(run.recipe.get("orpo_alpha")),
        beta=number(run.recipe.get("orpo_beta")),
        took=next((time for time in times if time is not None and 0 <= time < 1e9), None),
        parameters=count(_facts(run).get("parameters")),
        trained=count(_facts(run).get("trainable_parameters")),
        engine=str(_facts(run).get("engine") or ""),
        curves=curves,
        state=progress(run),
        live=live,
        now=f"{datetime.now().astimezone():%H:%M:%S}",
        found=found,
        after=bool(after),
        before=number(before.get("preference_accuracy")),
        compared=found.word != "unmeasured",
        tested=tested,
        pairs=count(mapping(accounts.get(where)).get("kept")) if tested else None,
        diagnosis=summary,
        went=trend_told,
    )


def _counted(account: Mapping[str, Any], what: str) -> list[tuple[str, int]]:
    """Of an account, such as what was dropped: (reason, how many)."""
    told = ((key, count(value)) for key, value in mapping(account.get(what)).items())
    return [(key, n) for key, n in told if n]


def _places(account: Mapping[str, Any], reason: str) -> list[str]:
    """Where to look first for rows that were dropped for a reason."""
    examples = map(mapping, entries(mapping(account.get("dropped_examples")).get(reason)))
    parts = ([str(one[key]) for key in ("where", "detail") if one.get(key)] for one in examples)
    return [shortened(": ".join(one), _LONGEST) for one in parts]


def _samples(run: Run, block: str = "samples") -> dict[str, Any]:
    """Some samples, `shown`, and a `sentence` about all of them.

    Of the `failures`, answers that turned from right to wrong, alone. They are taken at even
    distances through the file: nobody picked them.
    """
    found = [
        (row, (row.get("correct_before"), row.get("correct_after"))) for row in records(run.samples)
    ]
    judged = Counter(pair for _, pair in found if all(isinstance(side, bool) for side in pair))
    rows = [row for row, pair in found if block == "samples" or pair == (True, False)]
    count = min(len(rows), _SHOWN[block])
    words = Words(
        "run",
        rows=rows,
        count=count,
        answered_again=any(row.get("after") is not None for row in rows),
        from_training=any(row.get("held_out") is False for row in rows),
        turned=[f"{judged[pair]} {told}" for pair, told in _TURNED.items() if judged[pair]],
        judged=judged.total(),
    )
    return {"shown": [rows[i * len(rows) // count] for i in range(count)], "sentence": words[block]}


def _turns(row: Mapping[str, Any]) -> list[tuple[str, object]]:
    """The turns of a sample's prompt, (role, text); a plain text has no role."""
    prompt, tools = row.get("prompt"), row.get("tools")
    if tools and isinstance(prompt, list):
        prompt = [{"role": "tools", "content": json.dumps(tools, ensure_ascii=False)}, *prompt]
    if not isinstance(prompt, list):
        return [("", prompt)]
    return [(str(one.get("role", "")), one.get("content")) for one in map(mapping, prompt) if one]


def _language(name: object) -> str:
    """The tag of a language, for what reads a page aloud; nothing if it is none."""
    tag = {"english": "en", "chinese": "zh"}.get(str(name or "").lower(), str(name or "").lower())
    return tag if re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]{2,8})*", tag) else ""


def _data_findings(run: Run) -> list[dict[str, Any]]:
    """What the audit found worth a look, the worst first, if the run folder has one."""
    found = records(_object(run, AUDIT).get("findings"))
    return [
        {key: shortened(str(one.get(key) or ""), 600) for key in ("title", "says", "do")}
        | {key: count(one.get(key)) or 0 for key in ("count", "of")}
        for verdict in ("stop", "look")
        for one in found
        if one.get("verdict") == verdict
    ]


def _object(run: Run, name: str) -> dict[str, Any]:
    """What a file of the run folder holds; nothing if it is not there or broken."""
    try:
        return mapping(read_object(run.path / name))
    except (OSError, ValueError):
        return {}


def _setting(value: object) -> str:
    if value is None:
        return "–"
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    text = str(value) if plain else json.dumps(value, ensure_ascii=False, default=str)
    return shortened(text, _LONGEST)


def _costs(run: Run) -> list[tuple[str, str]]:
    """What the run cost: time, counted work, memory; only what was recorded."""
    lines, work = records(run.metrics), _object(run, "work.json")
    totals: dict[str, Any] = next((one for one in lines[::-1] if "train_runtime" in one), {})
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
        ranks=count(_facts(run).get("world_size")),
        **{name: count(work.get(name)) for name in counted},
    )
    return [(label, value) for label, value in words.lines("costs") if value]


def _usable(value: object) -> float | None:
    """A number that something can have taken."""
    found = number(value)
    return found if found is not None and math.isfinite(found) and 0 < found < 1e40 else None
